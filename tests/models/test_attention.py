"""The choice of kernel, the one helper for optional imports, and an import that stays light."""

import subprocess
import sys

import pytest
import torch

from diffalign.extras import require
from diffalign.models import load_model, set_attention
from tests.models.shared import inputs


def test_auto_and_sdpa_change_nothing_on_the_cpu(folders):
    model = load_model(folders("sdxl"))
    before = model.predict(*inputs(model))
    assert set_attention(model.denoiser) == "sdpa" and set_attention(model.denoiser, "sdpa") == "sdpa"
    assert torch.equal(model.predict(*inputs(model)), before)


def test_xformers_that_cannot_run_is_one_clear_line(folders):
    denoiser = load_model(folders("sd15")).denoiser
    with pytest.raises(ValueError, match=r"^attention 'xformers' cannot be used: .*diffalign\[xformers\]$"):
        set_attention(denoiser, "xformers")
    with pytest.raises(ValueError, match="must be one of auto, sdpa, .*xformers, got 'fast'"):
        set_attention(denoiser, "fast")


@pytest.mark.parametrize("kind", ["sd15", "sd3.5", "pixart_sigma", "lumina2", "dit", "dit_moe", "qwen_image", "z_image", "sana"])
def test_kernels_that_diffusers_would_ignore_are_refused(kind, folders):
    reason = "masks what prompts" if kind in ("qwen_image", "z_image") else "does not go through"
    model = load_model(folders(kind))
    before = model.predict(*inputs(model))
    for name in ("flash", "cudnn", "flash_3_hub"):
        with pytest.raises(ValueError, match=f"^attention '{name}' cannot be used: a .* {reason} .*; use 'sdpa'$"):
            set_attention(model.denoiser, name)
    assert set_attention(model.denoiser) == set_attention(model.denoiser, "sdpa") == "sdpa"
    assert torch.equal(model.predict(*inputs(model)), before)


def test_flux_goes_through_diffusers_dispatcher(folders):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    model = load_model(folders("flux"))
    before, active = model.predict(*inputs(model)), _AttentionBackendRegistry.get_active_backend()
    for name, advice in {"flash": "flash-attn", "flash_3": "build", "flash_hub": "install kernels", "xformers": "diffalign"}.items():
        with pytest.raises(ValueError, match=f"^attention '{name}' cannot be used: [^\n]*; use 'sdpa', or .*{advice}"):
            set_attention(model.denoiser, name)
    with pytest.raises(ValueError, match="'cudnn' cannot be used: it has kernels for CUDA devices only and the denoiser is on the cpu"):
        set_attention(model.denoiser, "cudnn")
    assert _AttentionBackendRegistry.get_active_backend() == active
    assert torch.equal(model.predict(*inputs(model)), before)
    assert set_attention(model.denoiser) == set_attention(model.denoiser, "sdpa") == "sdpa"
    assert {module.processor._attention_backend.value for module in model.denoiser.modules() if "processor" in vars(module)} == {"native"}
    assert torch.equal(model.predict(*inputs(model)), before)


def test_require_names_the_extra():
    assert require("json", extra="dev").dumps([]) == "[]"
    with pytest.raises(ImportError, match=r"'no_such_package' is needed here .*pip install 'diffalign\[quant\]'"):
        require("no_such_package", extra="quant")


def test_import_is_light():
    code = "import sys, diffalign.models; print([m for m in ('diffusers', 'transformers', 'peft', 'accelerate') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
