"""Our preprocessings against the libraries they are of, on shapes and modes where these differ from each other."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diffalign.rewards.preprocess import HPS, MEAN, OPENAI, SQUASH, STD, TRANSFORMERS, Preparation
from tests.rewards import tiny

SIZES = [(224, 224), (512, 768), (301, 640), (333, 1000), (100, 224), (231, 227), (97, 61)]
BLACK = [-1.7922625, -1.7520971, -1.4802198]  # -mean / std


@pytest.fixture(scope="module")
def transforms():
    return pytest.importorskip("torchvision.transforms")


def as_levels(prepared):
    """Normalised pixels as 0 to 255 again."""
    return (prepared * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


def upstream_crop(transforms, size=224, squash=False):
    """What openai/CLIP, open_clip and ImageReward build: RGB after the crop."""
    bicubic = transforms.InterpolationMode.BICUBIC
    fit = [transforms.Resize((size, size), bicubic)] if squash else [transforms.Resize(size, bicubic), transforms.CenterCrop(size)]
    rgb = transforms.Lambda(lambda image: image.convert("RGB"))
    return transforms.Compose([*fit, rgb, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


@pytest.mark.parametrize("size", SIZES)
def test_crop_is_torchvisions_on_pil(transforms, size):
    for mode in ("RGB", "L", "P"):
        image = tiny.image(0, size, mode)
        torch.testing.assert_close(OPENAI(image), upstream_crop(transforms)(image), rtol=0, atol=3e-7)


def test_squash_is_open_clips_for_dfn(transforms):
    pytest.importorskip("open_clip")
    from open_clip.transform import image_transform

    image = tiny.image(0, (300, 200))
    theirs = image_transform(378, False, mean=MEAN, std=STD, resize_mode="squash", interpolation="bicubic")(image)
    torch.testing.assert_close(Preparation(**SQUASH.facts() | {"size": 378})(image), theirs, rtol=0, atol=3e-7)
    shortest = image_transform(224, False, mean=MEAN, std=STD, resize_mode="shortest", interpolation="bicubic")(image)
    torch.testing.assert_close(OPENAI(image), shortest, rtol=0, atol=3e-7)


@pytest.mark.parametrize("size", SIZES)
def test_crop_is_transformers_on_pil(size):
    import transformers

    kind = getattr(transformers, "CLIPImageProcessorPil", None)  # its name since version 5; before, it was the only one
    if kind is None:
        pytest.skip("this transformers has no CLIPImageProcessorPil")
    for mode in ("RGB", "L", "P"):
        image = tiny.image(1, size, mode)
        theirs = kind()(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(TRANSFORMERS(image), theirs, rtol=0, atol=1e-6)


def test_a_palette_becomes_rgb_before_or_after_and_that_shows():
    image = tiny.image(2, (500, 400), "P")
    assert (OPENAI(image) - TRANSFORMERS(image)).abs().max() > 0.5


def test_half_a_pixel_goes_where_each_library_puts_it():
    """Three columns too many: 1 is cut off the left by transformers' floor(1.5), 2 by torchvision's round(1.5)."""
    ramp = Image.fromarray(np.tile(np.arange(227, dtype=np.uint8), (224, 1))).convert("RGB")
    first = [round((float(prepare(ramp)[0, 0, 0]) * STD[0] + MEAN[0]) * 255) for prepare in (TRANSFORMERS, OPENAI)]
    assert first == [1, 2]


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [size for size in SIZES if max(size) != 224 or size == (224, 224)])
def test_letterbox_is_hpsv2s(transforms, size, antialias):
    """Its ResizeMaxSize, written out with torchvision; a tensor is resized as it is, unclamped."""
    image, functional = tiny.image(3, size), pytest.importorskip("torchvision.transforms.functional")
    pixels = functional.to_tensor(image)
    scale = 224 / float(max(pixels.shape[1:]))
    if scale != 1.0:
        height, width = (round(side * scale) for side in pixels.shape[1:])
        pixels = functional.resize(pixels, [height, width], transforms.InterpolationMode.BICUBIC, antialias=antialias)
        down, across = 224 - height, 224 - width
        pixels = functional.pad(pixels, [across // 2, down // 2, across - across // 2, down - down // 2], fill=0)
    theirs = functional.normalize(pixels, MEAN, STD)
    torch.testing.assert_close(Preparation("letterbox", antialias=antialias)(image), theirs, rtol=0, atol=3e-7)


@pytest.mark.parametrize("size", SIZES)
def test_letterbox_is_the_published_packages(size):
    published = pytest.importorskip("hpsv2.src.open_clip.transform")
    theirs = published.image_transform(224, is_train=False, resize_longest_max=True)(tiny.image(3, size))
    ours = HPS(tiny.image(3, size))
    if size == (100, 224):
        assert theirs.shape == (3, 224, 100), "which no network takes; ours is padded"
        assert ours.shape == (3, 224, 224) and torch.equal(ours[:, :, 62:162], theirs)
    else:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-7)


def test_letterbox_pads_with_black_before_normalisation_and_leaves_overshoot():
    prepared = HPS(Image.new("RGB", (448, 300), "white"))
    assert torch.equal(prepared[:, :37].reshape(3, -1).amax(dim=1), prepared[:, :37].reshape(3, -1).amin(dim=1))
    torch.testing.assert_close(prepared[:, 0, 0], torch.tensor(BLACK))
    assert prepared.shape == (3, 224, 224) and (prepared[0, :, 100] > 0).nonzero().squeeze().tolist() == list(range(37, 187))
    edges = HPS(Image.fromarray(np.tile(np.repeat([0, 255], 56).astype(np.uint8), (448, 4))).convert("RGB"))
    assert edges[0].max() > (1 - MEAN[0]) / STD[0] + 0.02


def test_antialias_changes_the_letterbox_of_what_shrinks_and_of_nothing_else():
    legacy = Preparation("letterbox", antialias=False)
    assert (legacy(tiny.image(4, (512, 512))) - HPS(tiny.image(4, (512, 512)))).abs().mean() > 0.02
    assert torch.equal(legacy(tiny.image(4, (224, 120))), HPS(tiny.image(4, (224, 120))))


def test_a_strip_is_cropped_without_being_resized_whole():
    """40 to 1: within one grey level of resizing it whole and cutting the middle out."""
    image = tiny.image(5, (4000, 100))
    whole = image.resize((224 * 40, 224), Image.Resampling.BICUBIC).crop((4368, 0, 4592, 224))
    assert (as_levels(OPENAI(image)) - tiny.pixels(whole) * 255).abs().max() < 1.01


@pytest.mark.parametrize("preparation", [OPENAI, TRANSFORMERS, SQUASH, HPS])
def test_the_gradient_is_that_of_a_resize_without_rounding(preparation):
    """In float64: clamping and rounding to 8 bits pass the gradient on, so it is that of the linear map, which finite differences know."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, 60, 45, generator=generator, dtype=torch.float64).requires_grad_()
    prepare = Preparation(**preparation.facts() | {"size": 32})
    weight = torch.randn(1, 3, 32, 32, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((prepare.pixels(pixels) * weight).sum(), pixels)

    def linear(x):
        if preparation.fit == "letterbox":
            return F.pad(F.interpolate(x, (32, 24), mode="bicubic", antialias=True), (4, 4))
        side = (32, 32) if preparation.fit == "squash" else (42, 32)
        return F.interpolate(x, side, mode="bicubic", antialias=True)[..., (side[0] - 32) // 2 :, :][..., :32, :]

    direction = torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
    change = linear(pixels.detach() + direction) - linear(pixels.detach())
    wanted = (change / torch.tensor(STD, dtype=torch.float64).view(3, 1, 1) * weight).sum()
    torch.testing.assert_close((gradient * direction).sum(), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("preparation", [OPENAI, TRANSFORMERS, SQUASH])
def test_tensors_are_clamped_and_rounded_to_eight_bits(preparation):
    pixels = tiny.pixels(tiny.image(6, (90, 70)))[None]
    levels = as_levels(Preparation(**preparation.facts() | {"size": 32}).pixels(pixels))
    assert (levels - levels.round()).abs().max() < 1e-3 and levels.min() > -0.01 and levels.max() < 255.01
