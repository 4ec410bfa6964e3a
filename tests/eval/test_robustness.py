"""What a change of the pictures costs: patterns that it wipes out, and content that it leaves."""

import numpy as np
import pytest
from PIL import Image

from diffalign.eval.hacking.robustness import PERTURBATIONS, drops, rescored


class Checker:
    """A reward fed by an adversarial pattern: how far neighbouring pixels go up and down, which no picture needs."""

    def score(self, images, prompts):
        grays = [np.asarray(image.convert("L"), dtype=float) / 255 for image in images]
        return [np.abs(gray[:, 1:-1] - (gray[:, 2:] + gray[:, :-2]) / 2).mean() for gray in grays]


class Bright:
    """A reward fed by what the picture shows."""

    def score(self, images, prompts):
        return [np.asarray(image, dtype=float).mean() / 255 for image in images]


class LeftBright:
    def score(self, images, prompts):
        return [np.asarray(image, dtype=float)[:, : image.width // 2].mean() / 255 for image in images]


def pictures(count, pattern, light=0, seed=0):
    """Smooth gray pictures of 32 x 32, with a checkerboard of so many levels on top."""
    rng, board = np.random.default_rng(seed), np.indices((32, 32)).sum(0) % 2
    levels = rng.integers(60, 120, count)
    return [Image.fromarray((level + light + pattern * board).astype(np.uint8)).convert("RGB") for level in levels]


def test_a_checkerboard_is_lost_and_light_is_not():
    """A full pattern of one pixel: blur of deviation 1/2 and resizing take most of it; light survives all four changes."""
    prompts = [f"prompt {i}" for i in range(12)]
    base, patterned, lit = pictures(12, 2), pictures(12, 24), pictures(12, 2, light=40)
    found = {}
    for reward, model in ((Checker(), patterned), (Bright(), lit)):
        scores = [np.array(reward.score(images, prompts)) for images in (base, model)]
        found[type(reward).__name__] = {one.name: one for one in drops(reward, base, model, prompts, *scores)}
    assert list(found["Checker"]) == list(PERTURBATIONS) and all(one.n == 12 for one in found["Checker"].values())
    assert found["Checker"]["blur 0.5 px"].lost > 0.4 and found["Checker"]["blur 0.5 px"].excess_ci[0] > 0
    assert found["Checker"]["mirrored"].lost == pytest.approx(0, abs=1e-9)
    assert all(abs(one.lost) < 0.03 for one in found["Bright"].values())


def test_the_share_lost_by_hand():
    """The left half is 0.2 lighter than the right one in the model only: mirrored, the whole gain of the left half is gone."""
    base = [Image.new("RGB", (8, 8), (100, 100, 100))] * 3
    model = [image.copy() for image in base]
    for image in model:
        image.paste((151, 151, 151), (0, 0, 4, 8))
    scores = [np.array(LeftBright().score(images, [])) for images in (base, model)]
    found = {one.name: one for one in drops(LeftBright(), base, model, ["a", "b", "c"], *scores)}["mirrored"]
    assert (found.base, found.model) == (0, pytest.approx(0.2)) and found.gain == pytest.approx(0.2) and found.lost == pytest.approx(1.0)


def test_prompts_that_name_a_side_are_not_mirrored():
    image = [Image.new("RGB", (8, 8), (10, 20, 30))] * 3
    prompts = ["a cat left of a dog", "copyrighted leftovers", "on the RIGHT, a tree"]
    assert np.isnan(rescored(Bright(), image, prompts, "mirrored")).tolist() == [True, False, True]
    assert np.isfinite(rescored(Bright(), image, prompts, "JPEG 75")).all()
    base = np.array(Bright().score(image, prompts))
    assert {one.name: one.n for one in drops(Bright(), image, image, prompts, base, base)}["mirrored"] == 1
    assert np.isnan(drops(Bright(), image, image, prompts, base, base)[0].lost)  # no gain to lose
    assert "mirrored" not in [one.name for one in drops(Bright(), image[:1], image[:1], prompts[:1], base[:1], base[:1])]


def test_crop_keeps_the_size_and_cuts_one_in_a_hundred_at_each_border():
    image = Image.new("RGB", (200, 100))
    image.paste((255, 255, 255), (0, 0, 2, 100))  # the two columns that go
    cut = PERTURBATIONS["crop 2 %"](image)
    assert cut.size == (200, 100) and np.asarray(cut)[:, 3:].max() == 0 and np.asarray(cut)[:, 0].mean() < 30


def test_numbers_that_do_not_match_are_refused():
    image = [Image.new("RGB", (8, 8))] * 2
    with pytest.raises(ValueError, match="as many pictures"):
        drops(Bright(), image, image, ["a", "b"], [0.0, 0.0], [0.0])
    with pytest.raises(ValueError, match="JPEG 75"):
        rescored(Bright(), image, ["a", "b"], "noise")
