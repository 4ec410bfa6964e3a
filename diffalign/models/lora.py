"""Low-rank adapters (LoRA, arXiv:2106.09685) on the denoiser: peft, through diffusers' adapter mixin.

    W x + alpha / rank * B A x        A ~ N(0, 1 / rank^2), B = 0: a fresh adapter changes nothing

Adapters are saved in diffusers' format with the adapter's config in the file's metadata, so that alpha survives where it differs from
rank, and ``load_lora_weights`` of a stock pipeline gives the trained predictions. Transformers that have no such loader in diffusers
0.42 (PixArt, DiT) are saved in peft's format, and a stock pipeline gets the adapter with

    peft.PeftModel.from_pretrained(pipeline.transformer, folder)            which changes pipeline.transformer in place
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import nn

from diffalign.models.base import DiffusionModel
from diffalign.models.lora_files import (
    ATTENTION,
    FILE,
    PEFT_FILE,
    adapter_layers,
    inject,
    pipeline_class,
    read_file,
    read_for_peft,
    save_for_peft,
    stock,
)
from diffalign.models.parts import reading


def add(
    denoiser: nn.Module,
    *,
    rank: int,
    seed: int,
    alpha: float | None = None,
    targets: str | list[str] = "attention",
    dropout: float = 0.0,
    name: str = "default",
) -> None:
    """Add a fresh adapter, make it the active and only trainable one, in float32 whatever the base's dtype.

    Args:
        rank, alpha: alpha is ``rank`` unless given; the update is scaled by alpha / rank.
        targets: "attention" (q, k, v, out; in joint attention the text stream's as well), "attention+ff" (and the feed-forward layers),
            "all-linear", or a list of module names or their endings.
        seed: of A's initial values; the global random state is left alone.
    Errors: ValueError for a rank below 1, a dropout outside [0, 1), unknown targets, or a name already in use.
    """
    from peft import LoraConfig

    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    if name in adapter_names(denoiser):
        raise ValueError(f"an adapter named '{name}' exists already (there are: {', '.join(adapter_names(denoiser))}): choose another name")
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        target_modules=_target_modules(denoiser, targets),
        lora_dropout=dropout,
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # peft draws on the CPU; torch.manual_seed would reseed the accelerators too
        inject(denoiser, config, name)
    _set_trainable(denoiser, name, True)


def trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters an optimizer gets: those that require gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def save(model: DiffusionModel | nn.Module, folder: str | Path, name: str = "default") -> Path:
    """Write adapter ``name`` as ``folder/pytorch_lora_weights.safetensors``, which a stock pipeline's ``load_lora_weights`` reads.

    Where diffusers has no loader it is peft's folder, ``adapter_model.safetensors`` and ``adapter_config.json``.

    Returns: the path of the file. Errors: ValueError where there is no such adapter.
    """
    from peft.utils import get_peft_model_state_dict

    denoiser = model.denoiser if isinstance(model, DiffusionModel) else model
    _require(denoiser, name)
    kind, state = stock(denoiser), get_peft_model_state_dict(denoiser, adapter_name=name)
    if kind.pipeline is None:
        return save_for_peft(denoiser.peft_config[name], state, Path(folder))
    metadata = denoiser.peft_config[name].to_dict()
    metadata["target_modules"] = sorted(metadata["target_modules"])  # a set in peft
    pipeline_class(denoiser).save_lora_weights(
        folder, **{f"{kind.prefix}_lora_layers": state, f"{kind.prefix}_lora_adapter_metadata": metadata}
    )
    return Path(folder) / FILE


def load(denoiser: nn.Module, folder: str | Path, name: str = "default", trainable: bool = True) -> None:
    """Load an adapter from a folder or a ``.safetensors`` file as ``name`` and make it active.

    Trainable adapters are held in float32 with the file's exact values, also on a half-precision base; all other parameters stop
    requiring gradients. Errors: ValueError for a missing or damaged file, a name in use, or an adapter that also changes the text encoders.
    """
    from peft import set_peft_model_state_dict

    has_loader = stock(denoiser).pipeline is not None
    file = Path(folder) if str(folder).endswith(".safetensors") else Path(folder) / (FILE if has_loader else PEFT_FILE)
    if not file.is_file():
        raise ValueError(f"no adapter at {file}: pass a folder written by lora.save, or a .safetensors file")
    if name in adapter_names(denoiser):
        raise ValueError(f"an adapter named '{name}' exists already: load it under another name")
    with reading(file):
        state = read_file(denoiser, file, name) if has_loader else read_for_peft(denoiser, file, name)
    for layer in adapter_layers(denoiser):
        layer.set_adapter(name)
    _set_trainable(denoiser, name, trainable)
    set_peft_model_state_dict(denoiser, state, adapter_name=name)  # once more, now that a half-precision base cannot round them


def load_beside(denoiser: nn.Module, folder: str | Path, name: str) -> None:
    """Load an adapter as ``name``, frozen and in float32, and leave the adapters in use as they are. Errors as of ``load``."""
    layers = adapter_layers(denoiser)
    used = list(layers[0].active_adapters) if layers else []
    with _gradient_flags_kept(denoiser), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # a second adapter is what is wanted
        load(denoiser, folder, name)
        for layer in adapter_layers(denoiser):  # those that the new adapter alone has, too
            layer.set_adapter(used)
    for _, parameter in adapter_parameters(denoiser, name):
        parameter.requires_grad_(False)


@contextmanager
def disabled(denoiser: nn.Module) -> Iterator[None]:
    """Within this context the denoiser is the base model; the adapters' state and gradient flags come back exactly."""
    layers = adapter_layers(denoiser)
    if not layers:
        raise ValueError("the denoiser has no adapter to disable: add one with lora.add, or use a frozen copy as the reference")
    before = [layer.disable_adapters for layer in layers]
    with _gradient_flags_kept(denoiser):
        try:
            for layer in layers:
                layer.enable_adapters(False)
            yield
        finally:
            for layer, off in zip(layers, before, strict=True):
                layer.enable_adapters(not off)


@contextmanager
def active(denoiser: nn.Module, name: str) -> Iterator[None]:
    """Within this context adapter ``name`` is the active one; the former one and all gradient flags come back exactly."""
    _require(denoiser, name)
    layers = adapter_layers(denoiser)
    before = [list(layer.active_adapters) for layer in layers]
    with _gradient_flags_kept(denoiser):
        try:
            for layer in layers:
                layer.set_adapter(name)
            yield
        finally:
            for layer, names in zip(layers, before, strict=True):
                layer.set_adapter(names)


def duplicate(denoiser: nn.Module, name: str, copy: str) -> None:
    """A frozen adapter ``copy`` with the values of ``name``, which stays the active one."""
    _require(denoiser, name)
    with _gradient_flags_kept(denoiser), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # a second adapter is what is wanted
        inject(denoiser, deepcopy(denoiser.peft_config[name]), copy)
        for layer in adapter_layers(denoiser):
            layer.set_adapter(name)
    with torch.no_grad():
        for (_, own), (_, its) in zip(adapter_parameters(denoiser, copy), adapter_parameters(denoiser, name), strict=True):
            own.requires_grad_(False).data = its.detach().clone()


def is_fresh(denoiser: nn.Module, name: str = "default") -> bool:
    """Whether adapter ``name`` still changes nothing (every B is zero)."""
    return not any(parameter.any() for key, parameter in adapter_parameters(denoiser, name) if ".lora_B." in key)


def adapter_names(denoiser: nn.Module) -> list[str]:
    return list(denoiser.peft_config) if adapter_layers(denoiser) else []


def adapter_parameters(denoiser: nn.Module, name: str) -> list[tuple[str, nn.Parameter]]:
    """(full name, parameter) of adapter ``name``, in the module's order."""
    return [(key, parameter) for key, parameter in denoiser.named_parameters() if ".lora_" in key and f".{name}." in key]


def _require(denoiser: nn.Module, name: str) -> None:
    if name not in adapter_names(denoiser):
        raise ValueError(f"the denoiser has no adapter named '{name}'; it has: {', '.join(adapter_names(denoiser)) or 'none'}")


def _target_modules(denoiser: nn.Module, targets: str | list[str]) -> list[str]:
    modules = dict(denoiser.named_modules())
    if targets == "all-linear":
        return [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    if isinstance(targets, str):
        kind = stock(denoiser)
        groups = {"attention": kind.attention, "attention+ff": kind.attention + kind.feed_forward}
        if targets not in groups:
            raise ValueError(f"targets must be 'attention', 'attention+ff', 'all-linear' or a list of module names, got {targets!r}")
        named = [name for pattern in groups[targets] if "*" in pattern for name in modules if fnmatch(name, pattern)]
        return [ending for ending in groups[targets] if "*" not in ending] + named
    missing = [target for target in targets if not any(name == target or name.endswith(f".{target}") for name in modules)]
    if missing or not targets:
        raise ValueError(
            f"no module of the denoiser is named {missing}: name modules as in denoiser.named_modules(), such as {list(ATTENTION)}"
        )
    return list(targets)


def _set_trainable(denoiser: nn.Module, name: str, trainable: bool) -> None:
    """Only adapter ``name`` requires gradients, in float32 (or nothing does)."""
    denoiser.requires_grad_(False)
    if trainable:
        for _, parameter in adapter_parameters(denoiser, name):
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


@contextmanager
def _gradient_flags_kept(denoiser: nn.Module) -> Iterator[None]:
    """peft sets ``requires_grad`` whenever it switches adapters; this puts every flag back."""
    flags = [(parameter, parameter.requires_grad) for parameter in denoiser.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
