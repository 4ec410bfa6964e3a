"""What draws pictures: a stock pipeline from a model's name, an adapter, or the folder of a training run."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from typing import Any

import torch

from diffalign.models import load_model, lora
from diffalign.models.base import DiffusionModel
from diffalign.models.parts import fingerprint
from diffalign.models.runs import find
from diffalign.rewards.base import sha256
from diffalign.train.validate import quiet_libraries
from diffalign.worlds import shapes

BATCH, BATCH_OF_A_WORLD = 4, 64  # pictures a call unless told


@dataclass(frozen=True)
class Drawer:
    """A stock pipeline, with what its pictures depend on.

    identity: family, hashes of denoiser, VAE and adapter, sampler and dtype: equal where the same calls give the same pictures.
    defaults: ``num_inference_steps`` and the guidance scale unless told: a world's own, else the pipeline's.
    about: names and places, for the reader. batch_size: pictures a call unless told.
    """

    model: DiffusionModel
    pipeline: Any
    name: str
    identity: dict[str, Any]
    defaults: dict[str, Any]
    about: dict[str, Any]
    batch_size: int

    def arguments(self, prompts: list[str], height: int, width: int) -> dict[str, Any]:
        """``sampling_arguments`` of one call with several prompts: texts and lists one a prompt, all else the same for all."""
        each = [self.model.sampling_arguments(prompt, height, width) for prompt in prompts]
        joined = dict(each[0])
        for name, value in each[0].items():
            if isinstance(value, str):
                joined[name] = [arguments[name] for arguments in each]
            elif isinstance(value, list):
                joined[name] = [part for arguments in each for part in arguments[name]]
        return joined


def load_drawer(
    name: str, *, adapter: str | None = None, base: str | None = None, dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu", **options: Any,
) -> Drawer:
    """A pipeline that draws. ``name``, ``adapter`` and ``base`` as in ``find``; ``options`` of ``load_model``. Errors as of both."""
    found = find(name, adapter, base)
    given = {key: value for key, value in options.items() if value is not None}
    with quiet_libraries():
        model = load_model(found.base, dtype=dtype, device=device, **{**found.options, **given})
        identity = {"family": model.family, "denoiser": fingerprint(model.denoiser), "vae": fingerprint(model.vae)}
        if found.adapter is not None:
            identity["adapter"] = sha256(found.adapter)
            lora.load(model.denoiser, found.adapter, trainable=False)
        model.denoiser.eval()
        pipeline = model.pipeline()
    identity |= {"sampler": _sampler(pipeline.scheduler), "dtype": str(dtype).removeprefix("torch.")}
    call = inspect.signature(type(pipeline).__call__).parameters
    defaults = {key: call[key].default for key in ("num_inference_steps", model.guidance_argument)}
    world = shapes.SAMPLING.get(found.trained_from)
    about = {"base": found.base, "adapter": None if found.adapter is None else str(found.adapter), "device": str(device)}
    return Drawer(model, pipeline, name, identity, {**defaults, **(world or {})}, about, BATCH_OF_A_WORLD if world else BATCH)


def _sampler(scheduler: Any) -> str:
    """Class and, in short, settings of a scheduler."""
    settings = sorted((key, str(value)) for key, value in scheduler.config.items() if not key.startswith("_"))
    return f"{type(scheduler).__name__} {hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"
