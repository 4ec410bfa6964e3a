"""What holds for every image reward, each a promise some published implementation breaks."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.rewards import tiny

pytestmark = pytest.mark.parametrize("name", tiny.NAMES)
CLOSE = dict(rtol=0, atol=2e-5)


def test_scores_are_paired_ordered_float32_and_differ(rewards, name):
    reward, images = rewards(name), tiny.images(4)
    scores = reward.score(images, tiny.PROMPTS)
    assert scores.dtype == torch.float32 and scores.shape == (4,) and scores.isfinite().all()
    assert scores.unique().numel() == 4, "scores that are all equal are what a badly loaded network gives"
    order = [2, 0, 3, 1]
    permuted = reward.score([images[i] for i in order], [tiny.PROMPTS[i] for i in order])
    torch.testing.assert_close(permuted, scores[order], **CLOSE)
    if reward.needs_prompt:
        assert reward.score(images[:1] * 4, tiny.PROMPTS).unique().numel() == 4


def test_scores_do_not_depend_on_the_batch(rewards, name):
    reward, images = rewards(name), tiny.images(4)
    together = reward.score(images, tiny.PROMPTS)
    for size in (1, 3):
        torch.testing.assert_close(reward.score(images, tiny.PROMPTS, batch_size=size), together, **CLOSE)
    alone = [reward.score([image], prompt) for image, prompt in zip(images, tiny.PROMPTS, strict=True)]
    torch.testing.assert_close(torch.cat(alone), together, **CLOSE)


def test_the_matrix_is_every_pair(rewards, name):
    reward, images = rewards(name), tiny.images(3)
    matrix = reward.score_matrix(images, tiny.PROMPTS, batch_size=2)
    pairs = torch.stack([reward.score(images, prompt) for prompt in tiny.PROMPTS], dim=1)
    assert matrix.shape == (3, 4) and matrix.dtype == torch.float32
    torch.testing.assert_close(matrix, pairs, **CLOSE)
    assert reward.score_matrix(images, []).shape == (3, 0) and reward.score_matrix([], tiny.PROMPTS).shape == (0, 4)


def test_one_image_in_many_forms(rewards, name, tmp_path):
    reward, image = rewards(name), tiny.image(5, (80, 60))
    wanted = reward.prepare(image)
    image.save(tmp_path / "image.png")
    opaque, turned = image.convert("RGBA"), image.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    stream = io.BytesIO()
    turned.save(stream, "PNG", exif=exif)
    forms = [tmp_path / "image.png", str(tmp_path / "image.png"), (tmp_path / "image.png").read_bytes(), opaque, stream.getvalue()]
    forms += [tiny.pixels(image), np.array(image)]
    assert all(torch.equal(reward.prepare(reward.read(form)), wanted) for form in forms)


def test_modes_without_three_channels(rewards, name):
    reward, image = rewards(name), tiny.image(6, (80, 60))
    assert torch.equal(reward.prepare(image.convert("L")), reward.prepare(image.convert("L").convert("RGB")))
    assert reward.score([image.convert("P"), image.convert("LA"), image.convert("1"), image.convert("CMYK")], "x").isfinite().all()
    clear = image.copy()
    clear.putalpha(0)
    white = Image.new("RGB", image.size, "white")
    assert torch.equal(reward.prepare(clear), reward.prepare(white))


def test_extreme_aspects(rewards, name):
    """Strips, and an image whose longest side is the network's own (HPSv2 forgets to pad it)."""
    reward = rewards(name)
    strips = [tiny.image(7, (1, 300)), tiny.image(7, (300, 1)), tiny.image(7, (20, tiny.SIDE)), tiny.image(7, (9000, 2))]
    assert all(reward.prepare(strip).shape == reward.prepare(tiny.image(0)).shape for strip in strips)
    assert reward.score(strips, "x").isfinite().all()


def test_prompts_long_empty_and_of_any_script(rewards, name):
    reward, image = rewards(name), tiny.image(8)
    prompts = ["a cat " * 200, "a cat " * 300, "", "  ", "猫と犬 🐈 à l'été", "a <b>cat</b> &amp; a dog"]
    scores = reward.score([image] * len(prompts), prompts)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores[:1], scores[1:2], **CLOSE)  # both are cut at the same place
    if reward.needs_prompt:
        with pytest.raises(ValueError, match="a prompt is a string, got int"):
            reward.score([image], [3])


def test_the_gradient_is_that_of_finite_differences(rewards, name):
    """In float64, of the network behind the preprocessing."""
    reward, prompts = rewards(name, dtype=torch.float64), tiny.PROMPTS[:2]
    prepared = reward.collate([reward.prepare(image) for image in tiny.images(2)]).double().requires_grad_()
    torch.manual_seed(0)
    direction, step = torch.randn_like(prepared), 1e-5
    (gradient,) = torch.autograd.grad(reward.measure(prepared, prompts).sum(), prepared)
    with torch.no_grad():
        ahead, behind = (reward.measure(prepared + sign * step * direction, prompts).sum() for sign in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-9)


def test_a_gradient_reaches_pixels_and_no_weight(rewards, name):
    reward = rewards(name)
    pixels = torch.stack([tiny.pixels(image) for image in tiny.images(2, size=(70, 56))]).requires_grad_()
    scores = reward.score(pixels, tiny.PROMPTS[:2], grad=True)
    scores.sum().backward()
    assert scores.dtype == torch.float32 and pixels.grad.isfinite().all() and (pixels.grad.flatten(1).abs().sum(dim=1) > 0).all()
    for network in networks(reward):
        assert not network.training
        assert all(not parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_the_gradient_path_is_close_to_the_exact_one(rewards, name):
    """The preprocessing of tensors against that of PIL images, on what the network takes."""
    reward, image = rewards(name), tiny.image(9, (150, 110))
    apart = (reward.prepare_pixels(tiny.pixels(image)[None])[0] - reward.prepare(image)).abs()
    assert apart.mean() < 0.004 and apart.max() < 0.2, "in deviations, of which 1/255 is 0.015"


def test_autocast_around_it_changes_nothing(rewards, name):
    reward, images = rewards(name), tiny.images(2)
    wanted = reward.score(images, tiny.PROMPTS[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = reward.score(images, tiny.PROMPTS[:2])
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, wanted, rtol=0, atol=0)


def test_half_precision_networks_give_float32_scores(rewards, name):
    reward = rewards(name, dtype=torch.bfloat16)
    scores = reward.score(tiny.images(2), tiny.PROMPTS[:2])
    wanted = rewards(name).score(tiny.images(2), tiny.PROMPTS[:2])
    assert scores.dtype == torch.float32 and reward.state()["dtype"] == "bfloat16"
    torch.testing.assert_close(scores, wanted, rtol=0.2, atol=0.2)


def test_loading_again_gives_the_same_bits(rewards, name, tmp_path):
    images = tiny.images(2)
    first, second = (tiny.load(name, tmp_path) for _ in range(2))
    assert torch.equal(first.score(images, "x"), second.score(images, "x")) and first.state() == second.state()
    assert len(first.state()["weights"]["sha256"]) == 64 and str(tmp_path) not in str(first.state())


def networks(reward):
    """The torch modules a reward holds, itself or in its towers."""
    held = [*vars(reward).values(), *(vars(reward.towers).values() if "towers" in vars(reward) else [])]
    return [value for value in held if isinstance(value, torch.nn.Module)]
