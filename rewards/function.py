"""A user's own function as a reward: ``module:attr`` or ``path/to/file.py:attr``, called with a batch of images and its prompts."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import operator
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffalign.rewards.base import Reward, sha256
from diffalign.rewards.images import to_rgb
from diffalign.rewards.preprocess import as_tensor

FORMS = ("tensor", "pil")


class FunctionReward(Reward):
    """score = function(images, prompts), checked: N numbers, each finite, or NaN for "no answer".

    ``state`` carries the hash of the function's source file; other files that it imports are not in it.
    """

    packages = ("torch", "pillow")

    def __init__(self, name: str, function: Callable, form: str, needs_prompt: bool, differentiable: bool, **base: Any):
        super().__init__(name, images=form, **base)
        self.function, self.form, self.needs_prompt, self.differentiable = function, form, needs_prompt, differentiable

    def prepare(self, decoded: Image.Image) -> Tensor | Image.Image:
        return to_rgb(decoded) if self.form == "pil" else as_tensor(to_rgb(decoded))

    def prepare_pixels(self, pixels: Tensor) -> Tensor:
        return pixels

    def collate(self, prepared: list[Any]) -> Any:
        if self.form == "pil":
            return prepared
        if len(sizes := {tuple(pixels.shape[1:]) for pixels in prepared}) > 1:
            found = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
            raise ValueError(f"reward '{self.name}' gets a batch as one tensor, and its images differ in size ({found}): use images='pil'")
        return torch.stack(prepared).to(self.device, self.dtype)

    def measure(self, batch: Any, prompts: list[str]) -> Tensor:
        found = self.function(batch, prompts)
        try:
            scores = found if isinstance(found, Tensor) else torch.from_numpy(np.asarray(found, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ValueError(f"reward '{self.name}' must return {len(batch)} numbers, got {type(found).__name__} ({error})") from error
        if scores.shape != (len(batch),):
            raise ValueError(f"reward '{self.name}' must return one number an image, ({len(batch)},), got shape {tuple(scores.shape)}")
        if torch.isinf(scores).any():
            raise ValueError(f"reward '{self.name}' returned an infinite score; a score is finite, or NaN where there is none")
        if isinstance(batch, Tensor) and batch.requires_grad and torch.is_grad_enabled() and not scores.requires_grad:
            raise ValueError(f"reward '{self.name}' is said to be differentiable, and its scores carry no gradient")
        return scores


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype, images: str = "tensor",
    needs_prompt: bool = True, differentiable: bool = False,
) -> FunctionReward:  # fmt: skip
    """The function that ``name`` says: ``package.module:attr`` as Python imports it, or ``path/to/file.py:attr``.

    Args:
        images: what the function gets: "tensor", one (N, 3, H, W) in [0, 1] of the reward's ``dtype`` on its ``device``, all images of one
            size; or "pil", a list of RGB images.
        needs_prompt: whether it reads the prompts; without, it gets empty ones.
        differentiable: whether its scores carry a gradient to the tensor it gets, for ``score(grad=True)``.
    The function returns N numbers as a list, array or tensor; higher is better; its scores must not depend on the rest of the batch.
    Errors: ValueError for a module or attribute that is not there, or whose source has no file, an unknown form, and weights or config,
        which a function does not have.
    """
    if weights is not None or config is not None:
        raise ValueError(f"reward '{name}' is a function and takes no weights and no config: let it load what it needs itself")
    if images not in FORMS:
        raise ValueError(f"reward '{name}': images is '{images}'; allowed are {', '.join(FORMS)}")
    if differentiable and images != "tensor":
        raise ValueError(f"reward '{name}': only a function of a tensor is differentiable; use images='tensor'")
    place, _, path = name.rpartition(":")
    module = _module(place, name)
    try:
        function = operator.attrgetter(path)(module)
    except AttributeError as error:
        known = ", ".join(attribute for attribute in dir(module) if not attribute.startswith("_"))
        raise ValueError(f"reward '{name}': {place} has no '{path}'; it has {known}") from error
    if not callable(function):
        raise ValueError(f"reward '{name}' is a {type(function).__name__}, and a function (images, prompts) -> scores is needed")
    try:
        source = Path(inspect.getfile(module))
    except TypeError as error:
        raise ValueError(f"reward '{name}': {place} has no source file, so its scores could not be told from another version's") from error
    about = {"file": source.name, "sha256": sha256(source)}
    return FunctionReward(name, function, images, needs_prompt, differentiable, device=device, dtype=dtype, source=about)


def _module(place: str, name: str) -> ModuleType:
    if place.endswith(".py"):
        path = Path(place).expanduser()
        if not path.is_file():
            raise ValueError(f"reward '{name}': there is no file {path}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    try:
        return importlib.import_module(place)
    except ImportError as error:
        how = "give package.module:attr or path/to/file.py:attr"
        raise ValueError(f"reward '{name}': {place} could not be imported ({error}); {how}") from error
