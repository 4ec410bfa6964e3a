"""How a pair of images becomes a pair of tensors of one size: bucket, resize, crop and flip, decided once for both.

The released Diffusion-DPO code crops and flips the two images independently; then the comparison also compares framings. Here one decision
serves both, and random numbers come in from the caller, so the geometry is a pure function.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image as PILImage

Size = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class View:
    """What is done to one image: resize to ``resized``, cut ``target`` at ``corner``, mirror when ``flip``.

    original   (height, width) of the image before anything is done to it
    resized    (height, width) after the resize; it covers the target
    corner     (top, left) of the crop in the resized image, before the flip
    target     (height, width) of the result
    """

    original: Size
    resized: Size
    corner: Size
    target: Size
    flip: bool = False

    @property
    def crop_top_left(self) -> Size:
        """(top, left) of the crop as SDXL's micro-conditioning states it, in the image as the model sees it (mirrored when flipped).

        *Deviates:* diffusers' ``train_text_to_image_sdxl.py`` mirrors with the width *after* the crop, ``left = target_width - left``,
        so an uncropped flipped image is said to be cropped by its whole width. Here the crop is mirrored in the resized image,
        ``left = resized_width - target_width - left``, which is 0 for it, and what flipping the whole image first would give.
        """
        top, left = self.corner
        return (top, self.resized[1] - self.target[1] - left) if self.flip else (top, left)

    def flipped(self) -> "View":
        """The same crop, mirrored."""
        return replace(self, flip=not self.flip)


@dataclass(frozen=True)
class Plan:
    """The geometry of a data set: the sizes there are, and how a crop is chosen.

    resolution   pixels; the side of the square bucket, or the square root of the buckets' area
    buckets      (height, width) of the allowed targets; default: one square. ``Plan.aspect_ratios`` makes the usual ladder
    crop         ``center``, or ``random`` from two uniforms the caller gives
    multiple     what every side of a target must be divisible by: pixels per latent, of the model's VAE
    """

    resolution: int
    buckets: tuple[Size, ...] = ()
    crop: str = "center"
    multiple: int = 8

    def __post_init__(self):
        object.__setattr__(self, "buckets", tuple((int(h), int(w)) for h, w in self.buckets) or ((self.resolution, self.resolution),))
        for side in (self.resolution, *(side for bucket in self.buckets for side in bucket)):
            if side < 1 or side % self.multiple:
                raise ValueError(
                    f"Plan: a side of {side!r} pixels; allowed are multiples of {self.multiple}, what the VAE makes one latent of."
                )
        if self.crop not in ("center", "random"):
            raise ValueError(f"Plan: crop is {self.crop!r}; allowed are 'center' and 'random'.")

    @classmethod
    def aspect_ratios(cls, resolution: int, *, divisibility: int = 64, crop: str = "center", multiple: int = 8) -> "Plan":
        """A ladder of buckets from 1:2 to 2:1, each of about ``resolution`` squared pixels, sides divisible by ``divisibility``."""
        from diffusers.training_utils import generate_aspect_ratio_buckets

        return cls(resolution, tuple(generate_aspect_ratio_buckets(resolution, divisibility)), crop, multiple)

    def bucket(self, size: Size) -> Size:
        """The bucket whose aspect ratio is nearest to that of ``size``, as a ratio of ratios (so 1:2 is as far from 1:1 as 2:1 is).

        Not diffusers' ``find_nearest_bucket``: its distance, ``|h W - w H|``, grows with the bucket and favours small ones.
        """
        return min(self.buckets, key=lambda bucket: abs(math.log(size[1] * bucket[0] / (size[0] * bucket[1]))))

    def views(self, *sizes: Size, flip: bool = False, uniforms: Sequence[float] = (0.5, 0.5)) -> tuple[View, ...]:
        """The views of a record's images, from their sizes alone.

        The first image (the chosen one of a pair) decides the bucket. Each image is scaled until it just covers the bucket, keeping its
        proportions, and the crop lies at the same fraction of what is left over: images of one size get one and the same crop.

        Args:
            uniforms: two numbers in [0, 1), for the crop's vertical and horizontal place; used by ``crop="random"`` only.
        """
        target = self.bucket(sizes[0])
        return tuple(self._view(size, target, flip, uniforms) for size in sizes)

    def _view(self, original: Size, target: Size, flip: bool, uniforms: Sequence[float]) -> View:
        scale = max(target[0] / original[0], target[1] / original[1])
        resized = tuple(max(round(side * scale), goal) for side, goal in zip(original, target, strict=True))
        spare = [side - goal for side, goal in zip(resized, target, strict=True)]
        if self.crop == "center":
            corner = tuple(round(rest / 2) for rest in spare)  # as torchvision's CenterCrop rounds
        else:
            corner = tuple(math.floor(_in_unit(u) * (rest + 1)) for u, rest in zip(uniforms, spare, strict=True))
        return View(original, resized, corner, target, flip)


def pixels(image: PILImage.Image, view: View) -> torch.Tensor:
    """The view of an RGB image as a tensor (3, H, W), float32 in [-1, 1].

    Resized by Pillow with Lanczos: it is antialiased, sharper than the bilinear filter of the published scripts when shrinking (which
    is the usual case), works in integers and hence gives the same bits on every machine, and needs no torchvision.
    Raises ValueError when the image is not of the size the view was planned for.
    """
    if (image.height, image.width) != view.original or image.mode != "RGB":
        raise ValueError(f"pixels: an image of mode {image.mode}, {image.height} x {image.width}; the view is for RGB, {view.original}.")
    cut = cut_out(image, view, PILImage.Resampling.LANCZOS)
    return torch.from_numpy(cut).permute(2, 0, 1).to(torch.float32).contiguous() / 127.5 - 1.0


def cut_out(image: PILImage.Image, view: View, filter: PILImage.Resampling) -> np.ndarray:
    """The view as (H, W) or (H, W, channels) of uint8."""
    (top, left), (height, width) = view.corner, view.target
    resized = image.resize((view.resized[1], view.resized[0]), filter)
    cut = np.array(resized.crop((left, top, left + width, top + height)))
    return cut[:, ::-1].copy() if view.flip else cut


def _in_unit(u: float) -> float:
    if not 0.0 <= u < 1.0:
        raise ValueError(f"Plan: a uniform of {u!r}; allowed are numbers in [0, 1).")
    return u
