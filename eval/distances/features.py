"""Images as rows of features, (N, d): what the distances between sets of images and the diversity within one are measured on.

    load_features("inception")      FID's and KID's network, 2,048 numbers             extra: eval
    load_features("clip-l14-336")   CMMD's                                             weights from the hub, or a local folder
    load_features("pixels")         the picture at 16 x 16: no weights, no published number, layout and colour only
    from_reward(reward)             the image tower of a reward that is loaded anyway
    from_function(name, function)   your own

A distance between two sets means something only where both have the same features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from diffalign.rewards import Reward, images, preprocess, towers
from diffalign.rewards.aesthetic import Aesthetic
from diffalign.rewards.base import frozen
from diffalign.rewards.clip import TwoTowers
from diffalign.rewards.preprocess import Preparation, as_tensor
from diffalign.rewards.weights import facts

PIXELS = 16  # the side of the picture in "pixels"
# name -> repository on the hub and the preprocessing of its published use
CLIPS = {
    "clip-l14-336": ("openai/clip-vit-large-patch14-336", "square"),  # cmmd-pytorch
    "clip-l14": ("openai/clip-vit-large-patch14", "openai"),
    "clip-b32": ("openai/clip-vit-base-patch32", "openai"),
}
# name -> what eval/distances/inception.py is asked for
INCEPTIONS = {
    "inception": {"resize": "clean"},
    "inception-tensorflow": {"resize": "tensorflow"},
    "inception-pytorch": {"resize": "pytorch"},
    "inception-logits": {"resize": "tensorflow", "layer": "logits"},
}
PACKAGES = ("torch", "pillow")


@dataclass(frozen=True)
class FeatureExtractor:
    """Images -> (N, d) float32 array, a row an image; a row does not depend on the other images.

    Attributes:
        name: of the features, for reports.
        prepare: a decoded PIL image -> what the network takes of one image. collate: prepared ones -> a batch.
        embed: a batch -> (N, d).
        settings: what the features depend on: weights' hashes, preprocessing, versions.
        caution: what these features cannot say; belongs beside every number measured on them.
    """

    name: str
    prepare: Callable[[Image.Image], Any]
    embed: Callable[[Any], Any]
    collate: Callable[[list[Any]], Any] = torch.stack
    settings: Mapping[str, Any] = field(default_factory=dict)
    caution: str = ""
    batch_size: int = 16

    @torch.no_grad()
    def __call__(self, samples: Any, *, batch_size: int | None = None, quiet: bool = True) -> np.ndarray:
        """(N, d) float32 of images in any form that rewards read: paths, bytes, PIL, uint8 arrays, a tensor (N, 3, H, W) in [0, 1].

        Errors: ValueError for no image and for an embedding that is not (n, d); OSError for a file that cannot be decoded.
        """
        samples, step, rows = images.as_samples(samples), batch_size or self.batch_size, []
        if not len(samples):
            raise ValueError(f"features '{self.name}': there are no images")
        for start in tqdm(range(0, len(samples), step), desc=self.name, unit="batch", disable=quiet):
            batch = [self.prepare(images.read(sample)) for sample in samples[start : start + step]]
            found = self.embed(self.collate(batch))
            found = found.float().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found, dtype=np.float32)
            if found.ndim != 2 or len(found) != len(batch):
                raise ValueError(f"features '{self.name}' of {len(batch)} images have the shape {found.shape}; ({len(batch)}, d) is needed")
            rows.append(found)
        return np.concatenate(rows)

    def state(self) -> dict[str, Any]:
        """What the features depend on, for caches and reports."""
        return {"features": self.name, **self.settings, **{package: metadata.version(package) for package in PACKAGES}}


def names() -> list[str]:
    """The names ``load_features`` knows."""
    return ["pixels", *INCEPTIONS, *CLIPS]


def load_features(
    name: str, weights: str | None = None, *, config: Any = None, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> FeatureExtractor:
    """Features by name.

    pixels                                       the RGB picture at 16 x 16, each number the mean of its part, in [-1, 1]; d = 768
    inception                                    2,048 pooled numbers behind clean-fid's resize
    inception-tensorflow, inception-pytorch      behind torch-fidelity's and clean-fid's legacy_pytorch, which give other FIDs
    inception-logits                             1,008 for the Inception Score, behind torch-fidelity's
    clip-l14-336                                 CMMD's: the middle square by PIL bicubic; projected embedding at length 1
    clip-l14, clip-b32                           the same behind CLIP's own crop

    Args:
        weights: a local copy in the published form: torch-fidelity's file for Inception, a transformers folder for CLIP. Without it the
            published one is looked for in the hub's (torch.hub's, for Inception) cache, and fetched.
        config: CLIP's, for another architecture than the folder's ``config.json`` says.
    Errors: ValueError for an unknown name, and for weights or config where there are none to choose; FileNotFoundError that names the file
        and how to give a local copy; ImportError that names the extra.
    """
    if name not in names():
        raise ValueError(f"no features '{name}'; known: {', '.join(names())}; a function of your own goes through from_function")
    if config is not None and name not in CLIPS:
        raise ValueError(f"features '{name}' have one architecture: leave config out")
    if name in INCEPTIONS:
        from diffalign.eval.distances import inception

        network, settings = inception.load(name, weights, device=device, dtype=dtype, **INCEPTIONS[name])
        return FeatureExtractor(name, network.prepare, network, settings=settings, caution=network.caution)
    if name in CLIPS:
        return _clip(name, weights, config, device, dtype)
    if weights is not None:
        raise ValueError("features 'pixels' have no weights: leave weights out")
    caution = f"pixels at {PIXELS} x {PIXELS} see colour and layout, not content; no published number is on them"
    return FeatureExtractor(name, small_pixels, lambda batch: batch, settings={"side": PIXELS, "resize": "mean"}, caution=caution)


def from_reward(reward: Reward) -> FeatureExtractor:
    """The image embeddings, at length 1, of a loaded CLIP-type reward (CLIP scores, PickScore, HPSv2, the aesthetic predictor's CLIP).

    Errors: ValueError for a reward of another kind, which has no embedding of the image alone.
    """
    if isinstance(reward, TwoTowers):
        embed = reward.towers.image
    elif isinstance(reward, Aesthetic):
        embed = reward.embed
    else:
        kinds = "CLIP scores, pickscore, hpsv2, hpsv2.1, aesthetic"
        raise ValueError(f"reward '{reward.name}' has no embedding of an image alone; those that have one: {kinds}")
    caution = "embeddings of a reward: no judge of a model that was trained on it"
    return FeatureExtractor(f"{reward.name}-image", reward.prepare, embed, reward.collate, reward.state(), caution, reward.batch_size)


def from_function(
    name: str, function: Callable[[list[Image.Image]], Any], *, settings: Mapping[str, Any] | None = None, caution: str = ""
) -> FeatureExtractor:
    """Your own features: ``function(list of RGB PIL images) -> (N, d)`` numbers as an array or tensor, each row its image's alone."""
    return FeatureExtractor(name, images.to_rgb, function, list, settings or {}, caution)


def small_pixels(image: Image.Image) -> Tensor:
    """A picture -> (3 * 16 * 16,) in [-1, 1]: each number the mean of its part of the picture."""
    return F.adaptive_avg_pool2d(as_tensor(images.to_rgb(image)), PIXELS).flatten() * 2 - 1


def centre_square(image: Image.Image) -> Image.Image:
    """The middle square; half a pixel goes to the left and the top."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _clip(name: str, weights: str | None, config: Any, device: Any, dtype: torch.dtype) -> FeatureExtractor:
    repository, fit = CLIPS[name]
    network, path = towers.load_network(name, repository, weights, config)
    network, size = frozen(network, device, dtype), network.config.vision_config.image_size
    preparation = Preparation("squash", size) if fit == "square" else Preparation(**preprocess.OPENAI.facts() | {"size": size})

    def prepare(image: Image.Image) -> Tensor:
        return preparation(centre_square(images.to_rgb(image)) if fit == "square" else image)

    def embed(batch: Tensor) -> Tensor:
        return towers.unit(towers.pooled(network.get_image_features(pixel_values=batch.to(device, dtype))))

    settings = {"weights": facts(path), "preprocess": {"first": fit, **preparation.facts()}, "dtype": str(dtype).removeprefix("torch.")}
    return FeatureExtractor(name, prepare, embed, settings=settings | {"transformers": metadata.version("transformers")})
