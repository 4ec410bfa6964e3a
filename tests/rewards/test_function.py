"""A function of one's own as a reward, and the JPEG size."""

import hashlib
import io
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.rewards import load_reward
from diffalign.worlds.shapes import judge, scenes

MODULE = """
import numpy as np
import torch

SCALE = 10.0

def brightness(images, prompts):
    return (images.mean((1, 2, 3)) * SCALE).tolist()

def words(images, prompts):
    return np.array([len(prompt.split()) for prompt in prompts])

def widths(images, prompts):
    return [image.width if image.mode == "RGB" else -1 for image in images]

def smooth(images, prompts):
    return images.square().sum((1, 2, 3))

def detached(images, prompts):
    return images.detach().mean((1, 2, 3))

def nothing(images, prompts):
    return [float("nan")] * len(images)

def endless(images, prompts):
    return [float("inf")] * len(images)

def too_few(images, prompts):
    return torch.zeros(len(images) - 1)

def text(images, prompts):
    return ["good"] * len(images)

class Judge:
    @staticmethod
    def score(images, prompts):
        return torch.ones(len(images), dtype=torch.float64)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "my_rewards.py"


def picture(color, size=(8, 6), mode="RGB"):
    return Image.new(mode, size, color)


def test_the_judge_of_the_shapes_world_is_a_reward():
    prompts = scenes.prompts("dev", 5)
    drawn = scenes.draw([scenes.parse(prompt) for prompt in [*prompts[:3], *prompts[:2]]], random.Random(0))  # the last two are wrong
    pixels = (drawn * 255).round() / 255
    reward = load_reward("diffalign.worlds.shapes.judge:score")
    found = reward.score(pixels, prompts, batch_size=2)
    assert found.tolist() == judge.score(pixels, prompts).tolist() and found[:3].min() > found[3:].max()
    assert reward.state()["source"] == {"file": "judge.py", "sha256": hashlib.sha256(Path(judge.__file__).read_bytes()).hexdigest()}


def test_a_module_and_a_file_give_the_same(module):
    images = [picture("white"), picture("black"), picture((0, 255, 0))]
    expected = [10.0, 0.0, pytest.approx(10 / 3, rel=1e-6)]
    assert load_reward("my_rewards:brightness").score(images, "x").tolist() == expected
    assert load_reward(f"{module}:brightness").score(images, "x").tolist() == expected
    assert load_reward("my_rewards:words").score(images, ["a", "a b", "a b c"], batch_size=2).tolist() == [1, 2, 3]
    found = load_reward("my_rewards:Judge.score").score(images, "x")
    assert found.tolist() == [1, 1, 1] and found.dtype == torch.float32


def test_the_source_is_part_of_the_state(module):
    before = load_reward(f"{module}:brightness").state()
    module.write_text(MODULE.replace("10.0", "20.0"))
    after = load_reward(f"{module}:brightness").state()
    assert before["source"]["sha256"] != after["source"]["sha256"] and before["reward"] == after["reward"]


def test_images_come_as_a_tensor_or_as_they_are(module):
    images = [picture((255, 0, 0, 0), mode="RGBA"), picture("white", (5, 6))]
    assert load_reward("my_rewards:widths", images="pil").score(images, "x").tolist() == [8, 5]
    with pytest.raises(ValueError, match=r"differ in size \(6 x 5, 6 x 8\): use images='pil'"):
        load_reward("my_rewards:brightness").score(images, "x")
    assert load_reward("my_rewards:brightness").score(images[:1], "x").tolist() == [10.0]  # transparency shows white
    no_prompt = load_reward("my_rewards:words", needs_prompt=False)
    assert no_prompt.score(images[:1]).tolist() == [0]


def test_a_gradient_where_the_function_has_one(module):
    pixels = torch.tensor([0.2, 0.4]).view(2, 1, 1, 1).expand(2, 3, 4, 4).clone().requires_grad_()
    load_reward("my_rewards:smooth", differentiable=True).score(pixels, "x", grad=True).sum().backward()
    assert torch.allclose(pixels.grad, 2 * pixels.detach())  # 0.2 and 0.4 are whole 255ths
    with pytest.raises(ValueError, match="carry no gradient"):
        load_reward("my_rewards:detached", differentiable=True).score(pixels, "x", grad=True)
    with pytest.raises(ValueError, match="not differentiable"):
        load_reward("my_rewards:smooth").score(pixels, "x", grad=True)


def test_what_a_function_returns_is_checked(module):
    images = [picture("white")] * 2
    assert all(math.isnan(score) for score in load_reward("my_rewards:nothing").score(images, "x").tolist())
    wrong = (("endless", "infinite"), ("too_few", r"one number an image, \(2,\), got shape \(1,\)"), ("text", "must return 2 numbers"))
    for name, said in wrong:
        with pytest.raises(ValueError, match=said):
            load_reward(f"my_rewards:{name}").score(images, "x")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("my_rewards:brightnes", {}, "has no 'brightnes'; it has .*brightness"),
        ("my_rewards:SCALE", {}, "is a float"),
        ("no_such_module:f", {}, "could not be imported"),
        ("no_such_file.py:f", {}, "there is no file"),
        ("sys:exit", {}, "no source file"),
        ("my_rewards:words", {"images": "numpy"}, "allowed are tensor, pil"),
        ("my_rewards:words", {"weights": "x"}, "takes no weights"),
        ("my_rewards:words", {"scale": 2}, "has no option scale; it has differentiable, images, needs_prompt"),
        ("my_rewards:widths", {"images": "pil", "differentiable": True}, "use images='tensor'"),
    ],
)
def test_mistakes_are_named(module, name, options, said):
    with pytest.raises(ValueError, match=said):
        load_reward(name, **options)


def test_jpeg_size_is_minus_the_bytes():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, format="JPEG", quality=95)  # as flow_grpo saves
    reward = load_reward("jpeg-size")
    assert reward.score([noise]).tolist() == [pytest.approx(-buffer.tell() / 1000 / 500, rel=1e-6)]
    flat, noisy = reward.score([picture("red", (48, 64)), noise]).tolist()
    assert noisy < flat < 0
    assert float(load_reward("jpeg-size", quality=50).score([noise])) > noisy
    pixels = torch.from_numpy(np.array(noise)).permute(2, 0, 1)[None].float() / 255
    assert reward.score(pixels).tolist() == [noisy]
    assert {"quality": 95, "subsampling": "4:2:0"}.items() <= reward.state().items() and reward.state()["jpeg_library"]
    for options in ({"quality": 0}, {"quality": 100}, {"quality": 7.5}):
        with pytest.raises(ValueError, match="quality is"):
            load_reward("jpeg-size", **options)
