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
    with pytest.raises(ValueError, match="must be one of auto, sdpa, xformers, got 'flash'"):
        set_attention(denoiser, "flash")


def test_require_names_the_extra():
    assert require("json", extra="dev").dumps([]) == "[]"
    with pytest.raises(ImportError, match=r"'no_such_package' is needed here .*pip install 'diffalign\[quant\]'"):
        require("no_such_package", extra="quant")


def test_import_is_light():
    code = "import sys, diffalign.models; print([m for m in ('diffusers', 'transformers', 'peft', 'accelerate') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
