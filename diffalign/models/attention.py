"""Which attention kernel the denoiser uses."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from diffalign.extras import require
from diffalign.models.places import first_line

log = logging.getLogger(__name__)

DISPATCHED = {  # our name -> diffusers' backend (diffusers.models.attention_dispatch)
    "sdpa": "native",
    "cudnn": "_native_cudnn",
    "flex": "flex",
    "flash": "flash",
    "flash_3": "_flash_3",
    "flash_hub": "flash_hub",
    "flash_3_hub": "_flash_3_hub",
    "xformers": "xformers",
}
KINDS = ("auto", *DISPATCHED)
MASKED = ("QwenImageTransformer2DModel", "ZImageTransformer2DModel")  # dispatched too, but flash kernels refuse masks in mid-run
WHAT_TO_DO = {
    "flash": "install flash-attn",
    "flash_3": "build flash-attn 3 from its source",
    "flash_hub": "install kernels, which fetches the kernel from the hub",
    "flash_3_hub": "install kernels, which fetches the kernel from the hub",
    "xformers": "install diffalign[xformers]",
}


def set_attention(denoiser: nn.Module, kind: str = "auto") -> str:
    """Choose the kernel; returns the name of the one that is in use.

    ``sdpa`` is torch's scaled_dot_product_attention, which picks a flash or memory-efficient kernel by itself on a GPU; every network has
    it, and all but Lumina2's, Qwen-Image's, Z-Image's and Sana's have ``xformers``. The others (flash, flash_3: the packages; flash_hub,
    flash_3_hub: kernels from the hub; cudnn, flex: torch's) go through diffusers' dispatcher. Of our families it is open for FLUX alone:
    Qwen-Image and Z-Image mask their prompts, and with the others diffusers would take the choice and not use it.
    ``auto`` takes xformers for a UNet on a GPU where it is installed and works with this torch, else sdpa.

    A choice is tried out, forward and backward, on small tensors of the denoiser's device and dtype before it is taken. Errors: ValueError
    for another kind, and for one that cannot run here, with the reason (package, device, dtype) in one line.
    """
    if kind not in KINDS:
        raise ValueError(f"attention must be one of {', '.join(KINDS)}, got {kind!r}")
    weight = next(denoiser.parameters())
    dispatched = _is_dispatched(denoiser)
    if kind == "auto" and weight.is_cuda and type(denoiser).__name__ == "UNet2DConditionModel":
        try:
            _use_xformers(denoiser, weight.is_cuda)
            return "xformers"
        except Exception as error:  # a kernel built for another torch fails in ways of its own
            log.info("attention: sdpa, because xformers cannot be used (%s); diffalign[xformers] installs it", first_line(error))
    kind = "sdpa" if kind == "auto" else kind
    try:
        if dispatched:
            _dispatch(denoiser, kind, weight)
        elif kind == "xformers":
            _use_xformers(denoiser, weight.is_cuda)
        elif kind == "sdpa":
            _use_sdpa(denoiser)
        else:
            raise RuntimeError(f"a {type(denoiser).__name__} {_why_not(denoiser)}")
    except Exception as error:
        advice = f", or {WHAT_TO_DO[kind]}" if kind in WHAT_TO_DO and (dispatched or kind == "xformers") else ""
        raise ValueError(f"attention '{kind}' cannot be used: {first_line(error)}; use 'sdpa'{advice}") from error
    return kind


def _is_dispatched(denoiser: nn.Module) -> bool:
    """Whether the network's attention is of diffusers' newer kind, which reads the backend; the older ``Attention`` does not."""
    from diffusers.models.attention import AttentionModuleMixin

    return any(isinstance(module, AttentionModuleMixin) for module in denoiser.modules())


def _why_not(denoiser: nn.Module) -> str:
    if type(denoiser).__name__ in MASKED:
        return "masks what prompts of different lengths leave empty, and kernels are not tried with a mask here"
    return "does not go through diffusers' attention dispatcher"


def _dispatch(denoiser: nn.Module, kind: str, weight: torch.Tensor) -> None:
    from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn
    from diffusers.utils import logging as diffusers_logging

    if kind == "xformers":
        require("xformers.ops", extra="xformers")
    if kind not in ("sdpa", "flex") and not weight.is_cuda:
        raise RuntimeError(f"it has kernels for CUDA devices only and the denoiser is on the {weight.device.type}")
    size = denoiser.config.attention_head_dim
    qkv = [torch.ones(1, 16, 2, size, device=weight.device, dtype=weight.dtype, requires_grad=True) for _ in range(3)]
    with attention_backend(DISPATCHED[kind]), torch.enable_grad():
        dispatch_attention_fn(*qkv).float().sum().backward()
    if any(part.grad is None for part in qkv):
        raise RuntimeError("the kernel has no backward pass")
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # it warns that this is experimental
    denoiser.set_attention_backend(DISPATCHED[kind])
    diffusers_logging.set_verbosity(verbosity)


def _use_sdpa(denoiser: nn.Module) -> None:
    """Put torch's kernel where xformers' was; everything else has it already."""
    for module, own, other in _attention_with_xformers(denoiser):
        if type(module.processor) is other:
            module.set_processor(own())


def _use_xformers(denoiser: nn.Module, on_gpu: bool) -> None:
    from diffusers.models.attention_processor import Attention

    require("xformers.ops", extra="xformers")
    if not on_gpu:
        raise RuntimeError("xformers has kernels for CUDA devices only and the denoiser is on the CPU")
    if len(list(_attention_with_xformers(denoiser))) < sum(isinstance(module, Attention) for module in denoiser.modules()):
        raise RuntimeError(f"diffusers has no xformers processor for the attention of a {type(denoiser).__name__}")
    denoiser.enable_xformers_memory_efficient_attention()  # diffusers tries the kernel once and raises where it does not run


def _attention_with_xformers(denoiser: nn.Module) -> Iterator[tuple[Any, type, type]]:
    """(attention, torch's processor, xformers' processor) where the second and the third compute the same.

    Elsewhere (Lumina2's rotary attention) diffusers would put the plain xformers processor in, and change what the network computes.
    """
    from diffusers.models import attention_processor as kinds

    pairs = (
        (kinds.AttnProcessor2_0, kinds.XFormersAttnProcessor),
        (kinds.JointAttnProcessor2_0, kinds.XFormersJointAttnProcessor),
    )
    for module in denoiser.modules():
        if isinstance(module, kinds.Attention):
            yield from ((module, own, other) for own, other in pairs if type(module.processor) in (own, other))
