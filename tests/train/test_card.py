"""The code in a run's README.md: it builds the pipeline that was trained, from whatever the model was loaded from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.test_transformer_loading import sd3_file
from tests.tiny import to_single_file
from tests.train.runs import run

PROMPT = "a red circle"
DRAWN = {"validation_prompts": [PROMPT], "num_validation_images": 1, "validation_inference_steps": 2, "validation_guidance_scale": 3.0}


def pipeline_of(folder: Path):
    """What the code builds, and the code; the line that draws is left out, for its image is large."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    scope = {}
    exec(code.split("\nimage = ")[0], scope)
    scope["pipeline"].set_progress_bar_config(disable=True)
    return scope["pipeline"], code


@pytest.mark.parametrize("train", ["lora", "full"])
def test_sd3_without_t5_is_loaded_without_it(train, folders, pairs, tmp_path):
    run(folders("sd3"), pairs, tmp_path, train=train, max_train_steps=2, learning_rate=1e-2, seed=7, beta=50.0, **DRAWN)
    pipeline, code = pipeline_of(tmp_path)
    assert ", text_encoder_3=None, tokenizer_3=None)" in code and code.rstrip().endswith("# as it was trained")
    generator = torch.Generator().manual_seed(7)
    size = Image.open(tmp_path / "samples" / "step_000002" / "00.png").size[0]
    drawn = pipeline(
        PROMPT, height=size, width=size, num_inference_steps=2, guidance_scale=3.0, max_sequence_length=256, generator=generator,
        output_type="np",
    ).images[0]  # fmt: skip
    written = np.asarray(Image.open(tmp_path / "samples" / "step_000002" / "00.png"), dtype=np.float64) / 255
    assert abs(drawn - written).max() <= 1 / 255


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_single_file_is_read_with_the_configs_it_was_trained_with(kind, folders, pairs, tmp_path):
    if kind == "sd3":
        file = sd3_file(Path(folders(kind)), tmp_path / "model.safetensors")
    else:
        file = to_single_file(folders(kind), tmp_path / "model.safetensors")
    run(file, pairs, tmp_path / "run", model_config=folders(kind), max_train_steps=1)
    pipeline, code = pipeline_of(tmp_path / "run")
    assert "from_single_file(" in code and f'config="{folders(kind)}"' in code
    assert pipeline.get_active_adapters() == ["default_0"]


def test_where_diffusers_has_no_loader_the_adapter_is_pefts(folders, pairs, tmp_path):
    from peft import PeftModel

    run(folders("pixart_sigma"), pairs, tmp_path, max_train_steps=1, resolution=32)
    assert isinstance(pipeline_of(tmp_path)[0].transformer, PeftModel)
