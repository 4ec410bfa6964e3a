"""The scoring pass: order, one decoding for all rewards, errors as rows, the cache, and a run that is killed."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import Image

from diffalign.rewards import load_reward
from diffalign.rewards.manifests import Item, Sample, collect
from diffalign.rewards.score import BadSample, score_items
from diffalign.rewards.score_cache import ScoreCache, content, default_folder, score_key
from tests.rewards.small import Brightness, Promptless, write_images

REPO = Path(__file__).resolve().parents[2]


def items_of(paths, prompts=None):
    return [Item(str(path), Sample(path), prompt) for path, prompt in zip(paths, prompts or ["p"] * len(paths), strict=True)]


@pytest.mark.parametrize(("batch_size", "workers"), [(None, 1), (1, 3), (3, 2), (100, 8)])
def test_scores_are_those_of_the_reward_in_the_items_order(tmp_path, batch_size, workers):
    paths, prompts = write_images(tmp_path, 11), [f"{'p' * i}" for i in range(1, 12)]
    reward = Brightness()
    found = score_items(items_of(paths, prompts), {"b": reward}, batch_size=batch_size, workers=workers, quiet=True)
    assert found.scores["b"] == reward.score(paths, prompts).tolist()
    assert [int(score) for score in found.scores["b"]] == list(range(1, 12))  # the prompt's length, plus a mean below 1
    assert found.errors["b"] == [None] * 11 and (found.decoded, found.measured, found.cached) == (11, 11, 0)


def test_an_image_is_decoded_once_for_several_rewards(tmp_path, monkeypatch):
    paths, opened, original = write_images(tmp_path, 6), [], PIL.Image.open
    monkeypatch.setattr(PIL.Image, "open", lambda file: (opened.append(file), original(file))[1])
    rewards = {"a": Brightness(), "b": Promptless("promptless")}
    found = score_items(items_of(paths), rewards, cache=ScoreCache(tmp_path / "cache"), quiet=True)
    assert sorted(opened) == paths and found.decoded == 6 and found.measured == 12
    assert [a - b for a, b in zip(found.scores["a"], found.scores["b"], strict=True)] == pytest.approx([1.0] * 6)


def test_what_cannot_be_scored_is_told_and_the_rest_is_scored(tmp_path):
    paths = write_images(tmp_path, 9, broken=(2, 5))
    paths[7].unlink()
    prompts = ["p", "bad", "p", "p", "silent", "p", None, "p", "p"]
    found = score_items(items_of(paths, prompts), {"b": Brightness(), "any": Promptless()}, quiet=True)
    good = [0, 3, 8]
    assert [i for i in range(9) if math.isfinite(found.scores["b"][i])] == good
    assert [i for i, error in enumerate(found.errors["b"]) if error] == [1, 2, 5, 6, 7]
    assert found.errors["b"][1] == "ValueError: this prompt is refused" and found.errors["b"][6] == "the sample has no prompt"
    assert "truncated" in found.errors["b"][2] and "cannot identify" in found.errors["b"][5] and "No such file" in found.errors["b"][7]
    assert math.isnan(found.scores["b"][4]) and found.errors["b"][4] is None  # an answer that is none is no error
    assert [i for i, error in enumerate(found.errors["any"]) if error] == [2, 5, 7] and found.failed() == 8


@pytest.mark.parametrize("prompt", ["p", "bad"])
def test_strict_stops_at_the_first_error_and_names_the_file(tmp_path, prompt):
    paths = write_images(tmp_path, 9, broken=(4,) if prompt == "p" else ())
    with pytest.raises(BadSample, match="00004.png: OSError" if prompt == "p" else "00000.png: ValueError: this prompt"):
        score_items(items_of(paths, [prompt] * 9), {"b": Brightness()}, strict=True, quiet=True)


def test_rewards_of_two_modalities_are_refused(tmp_path):
    sound = Brightness()
    sound.modality = "audio"
    with pytest.raises(ValueError, match="of one modality can score the same samples; these are of audio, image"):
        score_items([], {"a": Brightness(), "b": sound}, quiet=True)


def test_the_cache_knows_content_prompt_and_state(tmp_path):
    cache, paths = ScoreCache(tmp_path / "cache"), write_images(tmp_path / "a", 5)

    def counts(paths, prompt="p", **rewards):
        found = score_items(items_of(paths, [prompt] * len(paths)), rewards or {"b": Brightness()}, cache=cache, quiet=True)
        return found.decoded, found.measured, found.cached

    first = score_items(items_of(paths), {"b": Brightness()}, cache=cache, quiet=True)
    again = score_items(items_of(paths), {"b": Brightness()}, cache=cache, quiet=True)
    assert again.scores == first.scores and (again.decoded, again.measured, again.cached) == (0, 0, 5)
    assert counts(paths, prompt="other") == (5, 5, 0)
    assert counts(paths, b=Brightness(weights="new")) == (5, 5, 0)
    assert counts(paths, any=Promptless()) == (5, 5, 0) and counts(paths, prompt="other", any=Promptless()) == (0, 0, 5)
    copies = [path.rename(path.with_name(f"copy{i}.png")) for i, path in enumerate(paths)]
    assert counts(copies) == (5, 0, 5)  # decoded to be known, not scored
    Image.new("RGB", (8, 8), "red").save(copies[0])
    assert counts(copies) == (1, 1, 4)
    assert counts(copies, b=Brightness(), any=Promptless()) == (1, 1, 9)


def test_an_answer_that_is_none_is_asked_for_again(tmp_path):
    cache, items = ScoreCache(tmp_path / "cache"), items_of(write_images(tmp_path, 2), ["silent", "p"])
    for measured in (2, 1):
        assert score_items(items, {"b": Brightness()}, cache=cache, quiet=True).measured == measured


def test_a_point_cloud_is_known_with_the_content_of_its_reference(tmp_path):
    for name, shift in (("a", 0.0), ("b", 1.0), ("reference", 0.0)):
        np.save(tmp_path / f"{name}.npy", np.array([[0.0, 0.0, shift], [9.0, 0.0, shift]]))
    items = [Item(name, Sample(tmp_path / f"{name}.npy"), str(tmp_path / "reference.npy")) for name in "ab"]
    rewards, cache = {"chamfer": load_reward("lidar-chamfer")}, ScoreCache(tmp_path / "cache")
    first = score_items(items, rewards, cache=cache, quiet=True)
    assert first.scores["chamfer"][0] == 0.0 > first.scores["chamfer"][1] and first.measured == 2
    assert score_items(items, rewards, cache=cache, quiet=True).cached == 2
    np.save(tmp_path / "reference.npy", np.array([[0.0, 0.0, 1.0], [9.0, 0.0, 1.0], [9.0, 0.0, 1.0]]))
    turned = score_items(items, rewards, cache=cache, quiet=True)
    assert turned.measured == 2 and turned.scores["chamfer"][1] == 0.0 > turned.scores["chamfer"][0]
    assert [item.image for item in collect([tmp_path], modality="lidar")] == [f"{tmp_path}/{name}.npy" for name in ("a", "b", "reference")]


def test_a_batch_that_cannot_be_measured_at_once_is_measured_one_by_one(tmp_path):
    for side in (4, 8):
        Image.new("RGB", (side, side), (side * 10, 0, 0)).save(tmp_path / f"{side}.png")
    name = f"{__name__}:redness"  # gets one tensor a batch: images of two sizes do not fit into one
    found = score_items(collect([tmp_path], prompt="p"), {"f": load_reward(name)}, quiet=True)
    assert found.scores["f"] == pytest.approx([40 / 255, 80 / 255]) and found.errors["f"] == [None, None]


def redness(images, prompts):
    return images[:, 0].mean((1, 2))


def test_content_tells_apart_what_looks_alike_in_memory():
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 0, 255, 0])
    other = image.copy()
    other.putpalette([0, 0, 255, 0, 255, 0])
    tall, wide = Image.new("RGB", (1, 4)), Image.new("RGB", (4, 1))
    seen = Image.new("RGB", (1, 4))
    seen.info["transparency"] = (0, 0, 0)
    kinds = [image, other, tall, wide, seen, Image.new("L", (1, 12)), Image.new("RGBA", (1, 3))]
    assert len({content(kind) for kind in kinds}) == len(kinds) and content(tall) == content(Image.new("RGB", (1, 4)))
    assert score_key("a", "bc", "d") != score_key("ab", "c", "d")
    with pytest.raises(ValueError, match="decodes to a set cannot be told from another"):
        content({1})


def test_the_cache_is_never_beside_the_data(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "diffalign"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_folder() == Path("/home/someone/.cache/diffalign")


def test_a_killed_run_goes_on_without_rescoring(tmp_path):
    write_images(tmp_path / "images", 200, broken=(3, 50, 120, 199))
    log = tmp_path / "log"

    def start(seconds):
        command = [sys.executable, "-m", "tests.rewards.small", tmp_path / "images", tmp_path / "cache", log, seconds]
        return subprocess.Popen(list(map(str, command)), cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    killed = start(0.02)
    while not (log.exists() and log.stat().st_size >= 40):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and killed.stdout.read() == ""
    before = log.stat().st_size
    out, _ = start(0.0).communicate()
    cached, measured, decoded, failed = map(int, out.split())
    assert failed == 4 and cached + measured == 196 and cached >= 36
    assert before - 4 <= cached <= before  # at most the one batch that was measured and not yet kept
    assert log.stat().st_size == before + measured and decoded == measured
    items, rewards = collect([tmp_path / "images"], prompt="p"), {"slow": Brightness()}
    known = score_items(items, rewards, cache=ScoreCache(tmp_path / "cache"), quiet=True)
    whole = score_items(items, rewards, quiet=True)
    assert known.scores["slow"] == pytest.approx(whole.scores["slow"], abs=0, nan_ok=True) and known.measured == 0
    assert len(os.listdir(tmp_path / "images")) == 200
