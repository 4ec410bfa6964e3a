"""Images in any form a caller has them, decoded the same way for every reward."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def as_samples(samples: Any) -> Any:
    """A sequence of samples, or a checked float tensor (N, 3, H, W) in [0, 1].

    Errors: ValueError for one sample where several are wanted, and for a tensor of another shape, type or range (latents and pixels in
    [-1, 1] are the classic mistake).
    """
    if isinstance(samples, str | bytes | Path | Image.Image):
        raise ValueError(f"samples must be a sequence or a tensor (N, 3, H, W), got one {type(samples).__name__}: put it in a list")
    if not isinstance(samples, Tensor):
        return list(samples)
    if samples.ndim != 4 or samples.shape[1] != 3 or not samples.is_floating_point():
        raise ValueError(f"a tensor of images is float (N, 3, H, W), got {samples.dtype} {tuple(samples.shape)}")
    low, high = (float(samples.detach().min()), float(samples.detach().max())) if samples.numel() else (0.0, 1.0)
    if not -1e-3 <= low <= high <= 1 + 1e-3:
        raise ValueError(f"pixels lie in [0, 1], got [{low:.3g}, {high:.3g}]; for pixels in [-1, 1] pass (x + 1) / 2")
    return samples


def read(sample: Any) -> Image.Image:
    """A path, bytes, PIL image, uint8 array (H, W, 3) or float tensor (3, H, W) in [0, 1] -> PIL image, EXIF turned, mode untouched.

    Errors: OSError where a file cannot be decoded, ValueError for another form.
    """
    if isinstance(sample, Tensor):
        eight_bit = (sample.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(eight_bit.movedim(0, -1).cpu().numpy())
    if isinstance(sample, np.ndarray):
        if sample.dtype != np.uint8 or sample.ndim != 3 or sample.shape[-1] != 3:
            raise ValueError(f"an array is uint8 (H, W, 3), got {sample.dtype} {sample.shape}")
        return Image.fromarray(sample)
    if isinstance(sample, bytes | str | Path):
        image = Image.open(io.BytesIO(sample) if isinstance(sample, bytes) else sample)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # of an image that is ours: without a turn it would be copied
        return image
    if not isinstance(sample, Image.Image):
        raise ValueError(f"an image is a path, bytes, a PIL image, a uint8 array or a tensor, got {type(sample).__name__}")
    sample.load()
    return ImageOps.exif_transpose(sample)


def to_rgb(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """RGB, with transparency laid over a background (white unless given): what is seen, where a plain conversion shows hidden pixels."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def rounded(pixels: Tensor) -> Tensor:
    """Pixels clamped to [0, 1] and rounded to 1/255, gradients straight through."""
    return pixels + (((pixels.clamp(0, 1) * 255).round() / 255) - pixels).detach()
