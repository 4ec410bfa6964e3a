"""Guidance away from what people dislike: the unconditional branch by a model of negative preference (Diffusion-NPO).

diffalign train --method diffusion-npo ...                                          the negative model, an adapter
with negative_guidance(pipeline, "runs/npo/lora", aligned="runs/dpo/lora"):         in any stock pipeline of SD, SDXL or SD3
    image = pipeline("a red circle", guidance_scale=5.0).images[0]
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from diffalign.models import lora
from diffalign.models.lora_files import adapter_layers

GUIDED = {  # pipelines that guide by one call on [unconditional, conditional] rows, and say whether they do; and their denoisers
    f"{name}{task}Pipeline": denoiser
    for name, denoiser in (("StableDiffusion", "unet"), ("StableDiffusionXL", "unet"), ("StableDiffusion3", "transformer"))
    for task in ("", "Img2Img", "Inpaint")
}
NAMES = {"negative": "diffalign_negative", "aligned": "diffalign_aligned"}  # of adapters that are loaded here


def negative_guidance(pipeline, negative: str | Path, *, aligned: str | Path | None = None, merge_weight: float = 0.0) -> NegativeGuidance:
    """Guide ``pipeline`` by a negative model until the result's ``remove`` is called, or the ``with`` around it ends.

        prediction = f_negative(unconditional) + w (f_positive(prompt) - f_negative(unconditional)),      w the pipeline's guidance_scale
        positive = base + aligned                    negative = base + (1 - merge_weight) aligned + negative adapter

    Source: the released code of Diffusion-NPO (G-U-N/Diffusion-NPO, gen.py and gen_xl.py), whose scripts run merge_weight 0. Adapters
    stand for its differences of weights. The paper was not read.

    The pipeline's own call is untouched; the rows of its doubled batch go through the denoiser in two halves, with other adapters on. That
    is as much arithmetic as before. Where guidance is off (a scale of 1 or less) the formula at w = 1 holds: the positive model alone, as
    everywhere in diffusers. SD3's skip-layer guidance asks the positive model.

    Args:
        pipeline: a stock text-to-image, image-to-image or inpainting pipeline of SD 1/2, SDXL or SD3.
        negative: the adapter of a ``diffusion-npo`` run (folder or file), or the name of an adapter that the pipeline has.
        aligned: the same of the model that is to be improved; None: the pipeline's weights as they are, the base or fully aligned ones.
        merge_weight: in [0, 1], how much of ``aligned`` is left out of the negative model; 1: the negative adapter on the bare base.

    While it lasts the two adapters are the only ones in use, with weight 1. Offload (``enable_model_cpu_offload``) afterwards, not before.

    Raises:
        ValueError: a pipeline that guides in another way, an adapter that is neither there nor a file, a merge_weight out of range or with
            nothing to merge, active adapters that ``aligned`` does not name, a denoiser that is guided already or offloaded.
    """
    return NegativeGuidance(pipeline, negative, aligned, merge_weight)


class NegativeGuidance(AbstractContextManager):
    """What ``negative_guidance`` put into a pipeline. ``remove`` takes it out again, with the adapters that were loaded for it."""

    def __init__(self, pipeline, negative: str | Path, aligned: str | Path | None, merge_weight: float):
        kind = type(pipeline).__name__
        if kind not in GUIDED:
            raise ValueError(
                f"a {kind} does not guide by one call on a doubled batch and say so, which is what negative guidance needs; "
                f"pipelines that do: {', '.join(GUIDED)}"
            )
        if not 0 <= merge_weight <= 1:
            raise ValueError(f"merge_weight is {merge_weight}; it is the share of the aligned adapter left out, in [0, 1] (released: 0)")
        if aligned is None and merge_weight:
            raise ValueError(f"merge_weight is {merge_weight}, but there is no aligned adapter to leave out: pass aligned=, or drop it")
        self.pipeline, self.denoiser = pipeline, pipeline.components[GUIDED[kind]]
        self.latents = "sample" if GUIDED[kind] == "unet" else "hidden_states"
        if "forward" in vars(self.denoiser):
            raise ValueError("the denoiser is guided already, or offloaded: remove that, and offload after negative_guidance")
        if aligned is None and (active := self._active()):
            raise ValueError(f"the pipeline has active adapters ({', '.join(active)}): name one as aligned=, or unload them")
        self.loaded: list[str] = []
        self.before = [(layer, list(layer.active_adapters), dict(layer.scaling), layer.disable_adapters) for layer in self._layers()]
        self.flags = [(parameter, parameter.requires_grad) for parameter in self.denoiser.parameters()]
        try:
            self.positive = {} if aligned is None else {self._adapter("aligned", aligned): 1.0}
            self.negative = {name: 1.0 - merge_weight for name in self.positive if merge_weight < 1}
            self.negative[self._adapter("negative", negative)] = 1.0
        except BaseException:
            self._restore()
            raise
        self.forward, self.on = self.denoiser.forward, True
        self._use(self.positive)
        self.denoiser.forward = self._guided

    def remove(self) -> None:
        """The pipeline as it was. Nothing happens when called again."""
        if not self.on:
            return
        self.on = False
        if vars(self.denoiser).get("forward") == self._guided:  # else offloading has wrapped it; then it only passes on
            del self.denoiser.forward
        self._restore()

    def __exit__(self, *error) -> None:
        self.remove()

    def _guided(self, *args: Any, **kwargs: Any):
        """The denoiser's forward: rows 0..N-1 by the negative model, rows N..2N-1 by the positive one."""
        if not self.on or not self.pipeline.do_classifier_free_guidance or kwargs.get("skip_layers") is not None:
            return self.forward(*args, **kwargs)
        rows = len(args[0] if args else kwargs[self.latents])
        halves = [(_half(args, rows, k), _half(kwargs, rows, k) | {"return_dict": False}) for k in (0, 1)]
        self._use(self.negative)
        try:
            unconditional = self.forward(*halves[0][0], **halves[0][1])[0]
        finally:
            self._use(self.positive)
        return (torch.cat([unconditional, self.forward(*halves[1][0], **halves[1][1])[0]]),)

    def _use(self, weights: Mapping[str, float]) -> None:
        """Exactly these adapters, with these weights; none for the bare denoiser."""
        if weights:
            self.denoiser.enable_adapters()
            self.denoiser.set_adapters(list(weights), list(weights.values()))
        else:
            self.denoiser.disable_adapters()

    def _layers(self) -> list:
        return adapter_layers(self.denoiser)

    def _active(self) -> list[str]:
        """The adapters in use."""
        return sorted({name for layer in self._layers() if not layer.disable_adapters for name in layer.active_adapters})

    def _adapter(self, role: str, given: str | Path) -> str:
        """The name of an adapter of the denoiser, loaded where it is not there."""
        known = lora.adapter_names(self.denoiser)
        if str(given) in known:
            return str(given)
        if not Path(given).exists():
            have = ", ".join(known) or "none"
            raise ValueError(f"{role} is {str(given)!r}, which is no file or folder, and no adapter of the pipeline (which has: {have})")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # a second adapter is what is wanted
            lora.load(self.denoiser, given, name=NAMES[role], trainable=False)
        self.loaded.append(NAMES[role])
        return NAMES[role]

    def _restore(self) -> None:
        if self._layers() and not self.before:
            self.denoiser.unload_lora()
        elif self.loaded:
            self.denoiser.enable_adapters()
            self.denoiser.delete_adapters(self.loaded)
        for layer, names, scaling, off in self.before:
            layer.set_adapter(names)
            layer.scaling.update(scaling)
            layer.enable_adapters(not off)
        for parameter, flag in self.flags:
            parameter.requires_grad_(flag)


def _half(value: Any, rows: int, which: int) -> Any:
    """Half 0 or 1 of every tensor of ``rows`` rows, also within lists, tuples and mappings; all else as it is."""
    if isinstance(value, torch.Tensor):
        return value.chunk(2)[which] if value.ndim and len(value) == rows else value
    if isinstance(value, Mapping):
        return {name: _half(part, rows, which) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_half(part, rows, which) for part in value)
    return value
