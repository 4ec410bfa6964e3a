"""From a decoded image to what a CLIP-type network takes: the published preprocessings, in PIL and torch alone.

Each is a ``Preparation`` with two twins: called on a PIL image it does what the published code does, byte for byte; ``pixels`` does the
same to a tensor with a gradient.

    letterbox   HPSv2: to float first, longest side to ``size``, black bars around, nothing clamped or rounded
    crop        CLIP: shortest side to ``size`` by PIL's 8-bit bicubic, the middle cut out
    squash      DFN: both sides to ``size``, by PIL

Sources: tgxs002/HPSv2 hpsv2/src/open_clip/transform.py (letterbox); torchvision's Resize and CenterCrop, as openai/CLIP, open_clip and
ImageReward use them, and transformers' CLIPImageProcessor on PIL, as PickScore uses it (crop).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffalign.rewards.base import Reward
from diffalign.rewards.images import rounded, to_rgb

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # openai/CLIP's, of every model here
WIDEST = 32  # sides apart by more than this: only what the crop keeps is resized, where the whole would take gigabytes


@dataclass(frozen=True)
class Preparation:
    """One preprocessing, in full.

    Attributes:
        fit: letterbox | crop | squash.
        size: the side of the square that comes out, in pixels.
        rgb: before | after: when an image becomes RGB; ``after`` (openai/CLIP, open_clip, ImageReward) resizes palettes and
            transparency as they are, which PIL does differently.
        crop_rounding: floor | round: where half a pixel goes, in transformers and in torchvision.
        antialias: of the letterbox; torchvision's default was off before 0.17 and is on since, and scores differ.

    *Deviates:* transparent pixels are laid over white, where the published code shows the colour hidden under them or fails (HPSv2).
    What is not square is always padded, where HPSv2 forgets it if the longest side is already ``size``, and no side gets shorter than one
    pixel. Beyond ``WIDEST`` to 1 the crop is resized by itself, which PIL's fixed point may round another way.
    """

    fit: str
    size: int = 224
    rgb: str = "before"
    crop_rounding: str = "floor"
    antialias: bool = True

    def __call__(self, image: Image.Image) -> Tensor:
        """A decoded image -> (3, size, size) float32, normalised."""
        if self.fit == "letterbox":
            return self.pixels(as_tensor(to_rgb(image))[None])[0]
        if self.rgb == "before":
            image = to_rgb(image)
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC) if self.fit == "squash" else self._cropped(image)
        return normalise(as_tensor(to_rgb(image)))

    def pixels(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 3, size, size), normalised; where PIL rounds to 8 bits this clamps and rounds too, gradients
        straight through. float32, or float64 where ``pixels`` is."""
        pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
        if self.fit == "letterbox":
            return normalise(self._boxed(pixels))
        height, width = pixels.shape[-2:]
        target = (self.size, self.size) if self.fit == "squash" else self._shortest(height, width)
        if target != (height, width):
            pixels = rounded(F.interpolate(pixels, target, mode="bicubic", antialias=True, align_corners=False))
        top, left = self._offset(target[0]), self._offset(target[1])
        return normalise(pixels[..., top : top + self.size, left : left + self.size])

    def facts(self) -> dict[str, Any]:
        """What provenance says of it."""
        return asdict(self)

    def _shortest(self, height: int, width: int) -> tuple[int, int]:
        """The sides, the shorter one ``size``."""
        short = min(height, width)
        return tuple(self.size if side == short else int(self.size * side / short) for side in (height, width))

    def _offset(self, side: int) -> int:
        spare = side - self.size
        return spare // 2 if self.crop_rounding == "floor" else round(spare / 2)

    def _cropped(self, image: Image.Image) -> Image.Image:
        height, width = self._shortest(image.height, image.width)
        left, top = self._offset(width), self._offset(height)
        if max(height, width) > WIDEST * self.size:
            box = tuple(edge * own / side for edge, own, side in (
                (left, image.width, width), (top, image.height, height),
                (left + self.size, image.width, width), (top + self.size, image.height, height),
            ))  # fmt: skip
            return image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return image.crop((left, top, left + self.size, top + self.size))

    def _boxed(self, pixels: Tensor) -> Tensor:
        scale = self.size / max(pixels.shape[-2:])
        height, width = (max(1, round(side * scale)) for side in pixels.shape[-2:])
        if (height, width) != tuple(pixels.shape[-2:]):
            pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=self.antialias, align_corners=False)
        down, across = self.size - height, self.size - width
        return F.pad(pixels, (across // 2, across - across // 2, down // 2, down - down // 2))


class PreparedReward(Reward):
    """A reward of images behind a ``Preparation``, whose size is that of the network's input."""

    differentiable = True

    def __init__(self, name: str, preparation: Preparation, size: int, **base: Any):
        self.preparation = replace(preparation, size=size)
        super().__init__(name, preprocess=self.preparation.facts(), **base)

    def prepare(self, decoded: Image.Image) -> Tensor:
        return self.preparation(decoded)

    def prepare_pixels(self, pixels: Tensor) -> Tensor:
        return self.preparation.pixels(pixels)


def as_tensor(image: Image.Image) -> Tensor:
    """An RGB image -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255


def normalise(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] -> mean 0 and deviation 1 over CLIP's training images, channel by channel."""
    mean, std = (torch.tensor(values, dtype=pixels.dtype, device=pixels.device).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


HPS = Preparation("letterbox")
OPENAI = Preparation("crop", rgb="after", crop_rounding="round")  # openai/CLIP, open_clip's own, ImageReward, the aesthetic predictor
TRANSFORMERS = Preparation("crop")
SQUASH = Preparation("squash", rgb="after")  # open_clip's for the DFN models
