"""What every reward is: samples and what they are judged against in, one float32 number a sample out, higher is better."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffalign.rewards import images


class Reward:
    """A reward is three steps, which the scoring command runs apart (decoding once for all rewards, preparing in workers):

        read     a sample in any form -> decoded        an image: PIL, EXIF turned, mode untouched
        prepare  decoded -> what the network takes      exactly the published preprocessing; (3, h, w) float32 for image models
        measure  a batch of prepared, its prompts -> (N,) scores

    ``score`` is the three together. Scores are paired and in input order, do not depend on the batch they were computed in, and are float32
    whatever the network's dtype. Weights are frozen and in evaluation mode.

    Attributes: ``name``, the id it was loaded by; ``modality``: image | audio | lidar; ``needs_prompt``, whether prompts are read;
    ``differentiable``, whether ``score(grad=True)`` works; ``batch_size``, the default; ``provenance``: what ``state`` adds;
    ``packages``: those whose version can change a score.
    """

    name = ""
    modality = "image"
    needs_prompt = True
    differentiable = False
    batch_size = 16
    packages: tuple[str, ...] = ("torch", "transformers", "pillow")

    def __init__(self, name: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, **provenance: Any):
        self.name, self.device, self.dtype, self.provenance = name, torch.device(device), dtype, provenance

    # What a reward says of itself -----------------------------------------------------------------------------------------------------

    def read(self, sample: Any) -> Any:
        """A sample decoded: for images a path, bytes, PIL image, or uint8 array (H, W, 3). ValueError or OSError where it cannot be."""
        return images.read(sample)

    def prepare(self, decoded: Any) -> Any:
        """One decoded sample as the network takes it."""
        raise NotImplementedError

    def prepare_pixels(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 3, h, w): the differentiable twin of ``prepare``."""
        raise NotImplementedError

    def collate(self, prepared: list[Any]) -> Any:
        """Prepared samples as one batch on the device."""
        return torch.stack(prepared).to(self.device)

    def measure(self, batch: Any, prompts: list[Any]) -> Tensor:
        """(N,) scores of a batch; gradients follow from ``batch`` where ``differentiable``."""
        raise NotImplementedError

    def measure_matrix(self, batch: Any, prompts: list[Any]) -> Tensor:
        """(N, M): every sample against every prompt. Two-tower models do it in one pass each."""
        return torch.stack([self.measure(batch, [prompt] * len(batch)) for prompt in prompts], dim=1)

    # What callers use -----------------------------------------------------------------------------------------------------------------

    def score(self, samples: Any, prompts: Any = None, *, batch_size: int | None = None, grad: bool = False) -> Tensor:
        """(N,) float32 on the CPU (with ``grad`` on the device, attached to the pixels).

        Args:
            samples: a sequence of samples, or a float tensor (N, 3, H, W) in [0, 1], which is rounded to 8 bits as a saved file would be
                (with ``grad``: with a straight-through gradient).
            prompts: as many as samples, or one for all; not read where ``needs_prompt`` is False.
            batch_size: samples a forward; the reward's own unless given. The scores do not depend on it.
            grad: differentiate through the reward; ``samples`` must be a tensor.
        Errors: ValueError for numbers that do not match, pixels outside [0, 1], a reward without a gradient; what ``read`` raises.
        """
        if grad and not (self.differentiable and isinstance(samples, Tensor)):
            why = "its samples must be a tensor (N, 3, H, W)" if self.differentiable else "it is not differentiable"
            raise ValueError(f"reward '{self.name}' has no gradient here: {why}")
        samples, prompts = self._paired(samples, prompts)
        step, found = batch_size or self.batch_size, []
        with nullcontext() if grad else torch.no_grad():
            for start in range(0, len(samples), step):
                batch = self._batch(samples[start : start + step], grad)
                found.append(self._measured(self.measure, batch, prompts[start : start + step]))
        return torch.cat(found) if found else torch.zeros(0)

    @torch.no_grad()
    def score_prepared(self, prepared: list[Any], prompts: list[Any]) -> Tensor:
        """(N,) float32 on the CPU of one batch that ``prepare`` made elsewhere, in a worker, say."""
        return self._measured(self.measure, self.collate(prepared), prompts)

    @torch.no_grad()
    def score_matrix(self, samples: Any, prompts: Sequence[Any], *, batch_size: int | None = None) -> Tensor:
        """(N, M) float32: every sample against every one of the M prompts. Errors as ``score``."""
        samples, prompts, step = images.as_samples(samples), list(prompts), batch_size or self.batch_size
        if not prompts:
            return torch.zeros(len(samples), 0)
        rows = [
            self._measured(self.measure_matrix, self._batch(samples[start : start + step], False), prompts)
            for start in range(0, len(samples), step)
        ]
        return torch.cat(rows) if rows else torch.zeros(0, len(prompts))

    def state(self) -> dict[str, Any]:
        """What the scores depend on, for caches and reports: weights' hashes, settings, precision, versions."""
        facts = {"reward": self.name, "class": type(self).__name__, "dtype": str(self.dtype).removeprefix("torch."), **self.provenance}
        return facts | {package: metadata.version(package) for package in self.packages}

    # Inside ---------------------------------------------------------------------------------------------------------------------------

    def _paired(self, samples: Any, prompts: Any) -> tuple[Any, list[Any]]:
        samples = images.as_samples(samples)
        if not self.needs_prompt:
            return samples, [""] * len(samples)
        if prompts is None:
            raise ValueError(f"reward '{self.name}' judges samples against prompts: give as many as samples, or one for all")
        prompts = [prompts] * len(samples) if isinstance(prompts, str) else list(prompts)
        if len(prompts) != len(samples):
            raise ValueError(f"{len(samples)} samples and {len(prompts)} prompts: give as many of both, or one prompt")
        return samples, prompts

    def _batch(self, samples: Any, grad: bool) -> Any:
        if grad:
            return self.prepare_pixels(images.rounded(samples.to(self.device)))
        return self.collate([self.prepare(self.read(sample)) for sample in samples])

    def _measured(self, measure, batch: Any, prompts: list[Any]) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):  # a caller's autocast is not part of the reward
            scores = measure(batch, prompts).float()
        return scores if scores.requires_grad else scores.cpu()


def frozen(network: torch.nn.Module, device: torch.device | str, dtype: torch.dtype) -> torch.nn.Module:
    """A network in evaluation mode, without gradients to its weights."""
    return network.to(device, dtype).eval().requires_grad_(False)


def sha256(path: Path) -> str:
    """The hash of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
