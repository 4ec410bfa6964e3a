"""How small an image is as a JPEG: the compressibility reward of DDPO (arXiv:2305.13301) in flow_grpo's units."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image, features
from torch import Tensor

from diffalign.rewards.base import Reward
from diffalign.rewards.images import to_rgb

QUALITY, SUBSAMPLING = 95, "4:2:0"  # PIL's default subsampling, which flow_grpo leaves as it is
BYTES = 500 * 1000  # of score -1


class JpegSize(Reward):
    """score = -(bytes of the image as a JPEG) / 500,000; no prompt is read, and there is no gradient."""

    needs_prompt = False
    packages = ("pillow",)

    def prepare(self, decoded: Image.Image) -> Tensor:
        buffer = io.BytesIO()
        to_rgb(decoded).save(buffer, format="JPEG", quality=self.provenance["quality"], subsampling=SUBSAMPLING)
        return torch.tensor(float(buffer.tell()))

    def measure(self, batch: Tensor, prompts: list[str]) -> Tensor:
        return -batch / BYTES


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype, quality: int = QUALITY
) -> JpegSize:
    """The size at JPEG ``quality`` 95 (1 to 95) with 4:2:0 subsampling, neither optimised nor progressive. 0 is the unreachable best.

    Source: yifan123/flow_grpo flow_grpo/rewards.py, ``jpeg_compressibility``: -KB / 500, a KB being 1000 bytes. The bytes depend on the
    JPEG library, so ``state`` carries its version.
    Errors: ValueError for another quality, and for weights or a config, which there are none of.

    *Deviates:* transparency is laid over white, where flow_grpo takes RGB arrays only.
    """
    if weights is not None or config is not None:
        raise ValueError(f"reward '{name}' has no weights and no config")
    if quality not in range(1, 96):
        raise ValueError(f"reward '{name}': quality is {quality}; it must be a whole number from 1 to 95")
    library = features.version("libjpeg_turbo") or features.version("jpg")
    return JpegSize(name, device=device, dtype=dtype, quality=quality, subsampling=SUBSAMPLING, jpeg_library=library)
