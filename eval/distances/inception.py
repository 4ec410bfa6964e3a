"""Inception V3 as FID, KID and the Inception Score use it: torch-fidelity's network and weights, behind a resize of one's choice.

The resize decides the number as much as the images do (arXiv:2104.11222), so it has a name:

    clean        clean-fid's: every channel by itself in floating point, PIL's antialiased bicubic, clamped, never rounded to 8 bits
    tensorflow   torch-fidelity's, pytorch-fid's of old: TensorFlow 1's bilinear, no antialiasing, corners off by half a pixel
    pytorch      clean-fid's legacy_pytorch: torch's bilinear, no antialiasing

Sources: GaParmar/clean-fid 0.1.35 resize.py, inception_torchscript.py; toshas/torch-fidelity 0.4.0 feature_extractor_inceptionv3.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from diffalign.extras import require
from diffalign.rewards import weights as files
from diffalign.rewards.base import frozen
from diffalign.rewards.images import to_rgb
from diffalign.rewards.weights import Source

SIDE = 299
LAYERS = {"pooled": 2048, "logits": 1008}


class Inception(nn.Module):
    """(N, 3, 299, 299) in [0, 255] -> (N, 2048) pooled features, or (N, 1008) logits without the last layer's bias.

    The layers are torch-fidelity's, called one after the other: its own ``forward`` takes 8-bit images and resizes them itself.
    """

    def __init__(self, network: nn.Module, resize: str, layer: str):
        super().__init__()
        *trunk, self.fc = network.children()  # registered in the order they are called in; test_features.py compares with its forward
        self.trunk, self.resize, self.layer = nn.Sequential(*trunk), resize, layer
        published = {"clean": "clean-fid's", "tensorflow": "torch-fidelity's", "pytorch": "clean-fid's legacy_pytorch"}[resize]
        self.caution = f"comparable with numbers on {published} resize only, and with images saved in the same format"

    def prepare(self, image: Image.Image) -> Tensor:
        """A decoded image -> (3, 299, 299) float32 in [0, 255]."""
        return RESIZES[self.resize](to_rgb(image))

    def forward(self, batch: Tensor) -> Tensor:
        weight = self.fc.weight
        pooled = self.trunk((batch.to(weight.device, weight.dtype) - 128) / 128).flatten(1)
        return pooled if self.layer == "pooled" else pooled @ weight.T


def clean(image: Image.Image) -> Tensor:
    """clean-fid's resize of an RGB image to (3, 299, 299) in [0, 255]; what is 299 x 299 already stays as it is."""
    planes = np.asarray(image, dtype=np.float32)
    planes = [Image.fromarray(planes[..., i].copy()).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for i in range(3)]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).clamp(0, 255)


def pytorch(image: Image.Image) -> Tensor:
    """clean-fid's legacy_pytorch resize of an RGB image to (3, 299, 299) in [0, 255]."""
    return F.interpolate(_levels(image), (SIDE, SIDE), mode="bilinear", align_corners=False)[0].clamp(0, 255)


def tensorflow(image: Image.Image) -> Tensor:
    """torch-fidelity's resize of an RGB image to (3, 299, 299) in [0, 255]."""
    interpolate = require("torch_fidelity.interpolate_compat_tensorflow", extra="eval").interpolate_bilinear_2d_like_tensorflow1x
    return interpolate(_levels(image), size=(SIDE, SIDE), align_corners=False)[0]


def _levels(image: Image.Image) -> Tensor:
    """(1, 3, H, W) float32 in [0, 255]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float()[None]


RESIZES = {"clean": clean, "tensorflow": tensorflow, "pytorch": pytorch}


def load(
    name: str, weights: str | None, *, resize: str, layer: str = "pooled", device: Any = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Inception, dict[str, Any]]:
    """The network and what its features depend on.

    Args:
        weights: torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth`` (of TensorFlow's 2015 model), or a folder that holds it.
    Errors: ImportError without torch-fidelity; FileNotFoundError that names the file; ValueError for a file that does not fit, is damaged,
        or holds more than tensors.

    Not compared with the published weights, which were not at hand: random ones in their format stand for them in the tests.
    """
    package = require("torch_fidelity.feature_extractor_inceptionv3", extra="eval")
    path = published(name, package.URL_INCEPTION_V3, weights)
    files.read_state(path)  # refuses what is more than tensors: torch-fidelity would run it
    try:
        with torch.random.fork_rng(devices=[]):  # it draws weights before it reads them
            network = package.FeatureExtractorInceptionV3(name, ["2048"], str(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit torch-fidelity's Inception: {' '.join(str(error).split())[:300]}") from error
    settings = {"weights": files.facts(path), "resize": resize, "layer": layer, "dtype": str(dtype).removeprefix("torch.")}
    return frozen(Inception(network, resize, layer), device, dtype), settings


def published(name: str, url: str, given: str | None) -> Path:
    """A file that a library publishes under ``url`` as ``NAME-HASH.pth``: the given one, else torch.hub's copy, else fetched and checked.

    Errors: FileNotFoundError that names the file, its place and how to give a local copy.
    """
    file = url.rpartition("/")[2]
    source = Source(name, ((file,),), url=url, digest=Path(file).stem.rpartition("-")[2])
    try:
        return source.find(name, given)[0]
    except FileNotFoundError as error:
        why = error.__cause__ or f"{given} does not exist or does not hold it"
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise FileNotFoundError(f"'{name}' needs {file} ({why}). Download {url} into {folder}, or give a copy as weights=PATH") from error
