"""Which attention kernel the denoiser uses."""

import logging

from torch import nn

from diffalign.extras import require

log = logging.getLogger(__name__)

KINDS = ("auto", "sdpa", "xformers")


def set_attention(denoiser: nn.Module, kind: str = "auto") -> str:
    """Choose the kernel; returns "sdpa" or "xformers", whichever is in use.

    ``sdpa`` is torch's scaled_dot_product_attention. ``auto`` takes xformers on a GPU where it is installed and works with this torch,
    else sdpa. Errors: ValueError for another kind, or for ``xformers`` where it cannot run, with the reason in one line.
    """
    if kind not in KINDS:
        raise ValueError(f"attention must be one of {', '.join(KINDS)}, got {kind!r}")
    on_gpu = next(denoiser.parameters()).is_cuda
    if kind == "xformers" or (kind == "auto" and on_gpu):
        try:
            _use_xformers(denoiser, on_gpu)
            return "xformers"
        except Exception as error:  # a kernel built for another torch fails in ways of its own
            reason = str(error).strip().split("\n")[0]
            if kind == "xformers":
                raise ValueError(f"attention 'xformers' cannot be used: {reason}; use 'sdpa', or install diffalign[xformers]") from error
            log.info("attention: sdpa, because xformers cannot be used (%s); diffalign[xformers] installs it", reason)
    from diffusers.models.attention_processor import AttnProcessor2_0

    denoiser.set_attn_processor(AttnProcessor2_0())  # set_default_attn_processor would set the slow one
    return "sdpa"


def _use_xformers(denoiser: nn.Module, on_gpu: bool) -> None:
    require("xformers.ops", extra="xformers")
    if not on_gpu:
        raise RuntimeError("xformers has kernels for CUDA devices only and the denoiser is on the CPU")
    denoiser.enable_xformers_memory_efficient_attention()  # diffusers tries the kernel once and raises where it does not run
