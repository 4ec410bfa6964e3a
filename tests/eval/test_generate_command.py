"""``diffalign generate`` as a user meets it, and what its --model may be: models, runs, adapters."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from diffalign import cli
from diffalign.eval.pictures.generate import generate
from diffalign.eval.pictures.generate_model import load_drawer
from diffalign.eval.pictures.generate_set import eight_bit, generate_set
from diffalign.eval.pictures.prompts import Prompt, PromptSet, load_prompts
from diffalign.eval.pictures.sets import ImageSet
from diffalign.models import load_model, lora
from diffalign.models.lora_files import FILE
from diffalign.models.runs import Found, find
from diffalign.rewards.base import sha256
from diffalign.worlds.shapes import PAIRS, scenes
from tests import tiny


def call(capsys, *argv):
    code = cli.main(["generate", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as training leaves it, with an adapter that changes pictures."""
    folder = tmp_path_factory.mktemp("runs") / "dpo"
    model = load_model("builtin:shapes")
    lora.add(model.denoiser, rank=2, seed=0)
    noise = torch.Generator().manual_seed(0)
    for key, parameter in lora.adapter_parameters(model.denoiser, "default"):
        if ".lora_B." in key:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=noise)
    lora.save(model, folder / "lora")
    (folder / "config.yaml").write_text(yaml.safe_dump({"modality": "image", "model": "builtin:shapes", "variant": None, "vae": None}))
    return folder


def test_a_run_its_adapter_and_the_two_apart_are_the_same(run):
    file = run / "lora" / FILE
    whole = Found("builtin:shapes", "builtin:shapes", file)
    assert find(str(run)) == find(str(run / "lora")) == find(str(file)) == whole
    assert find("builtin:shapes", adapter=str(run)) == find("builtin:shapes", adapter=str(run / "lora")) == whole
    assert find("builtin:shapes", adapter=str(file)) == whole and find(str(run), base="other") == Found("other", "other", file)
    assert find("owner/name") == Found("owner/name", "owner/name")


def test_what_a_run_was_told_of_its_model_is_kept(run, tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / FILE).write_bytes((run / "lora" / FILE).read_bytes())
    config = {"model": "m.safetensors", "model_config": "configs", "vae": "v", "variant": None, "max_sequence_length": 77}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert find(str(tmp_path)).options == {"config": "configs", "vae": "v", "max_sequence_length": 77}


def test_a_run_of_all_weights_is_its_model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": "builtin:shapes-flow"}))
    assert find(str(tmp_path)) == Found(str(tmp_path / "model"), "builtin:shapes-flow", None, {"max_sequence_length": 0})
    with pytest.raises(ValueError, match="leave it out"):
        find(str(tmp_path), base="x")


def test_what_cannot_be_drawn_from_is_refused(run, tmp_path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / FILE).write_bytes((run / "lora" / FILE).read_bytes())
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("model: builtin:shapes")
    (tmp_path / "text" / "lora").mkdir(parents=True)
    (tmp_path / "text" / "config.yaml").write_text("modality: text\nmodel: builtin:sums")
    for arguments, said in (
        ((tmp_path / "alone",), r"no .*config.yaml says of which model: name it with --base MODEL"),
        ((tmp_path / "unfinished",), "a run without a result"),
        ((tmp_path / "text",), "is of a run of modality text"),
        (("builtin:shapes", tmp_path), "there is no pytorch_lora_weights.safetensors or adapter_model.safetensors in it"),
        ((run, run), "is an adapter or a run already"),
        (("builtin:shapes", None, "x"), "is no adapter, which would need one"),
    ):
        with pytest.raises(ValueError, match=said):
            find(*(part if part is None else str(part) for part in arguments))
    assert find(str(tmp_path / "alone"), base="builtin:shapes").base == "builtin:shapes"


def test_an_adapter_draws_as_the_stock_pipeline_with_it(run):
    prompts = scenes.prompts("test", 3)
    settings = {"num_inference_steps": 2, "guidance_scale": 1.5, "quiet": True}
    drawer, base = load_drawer(str(run)), load_model("builtin:shapes").pipeline()
    without = generate(base, prompts, **settings)
    base.load_lora_weights(str(run / "lora"))
    stock, ours = generate(base, prompts, **settings), generate(drawer.pipeline, prompts, **settings)
    assert (stock == ours).all() and (stock - without).abs().mean() > 0.01
    assert drawer.identity["adapter"] == sha256(run / "lora" / FILE) and drawer.defaults["num_inference_steps"] == 8
    assert drawer.identity["denoiser"] == load_drawer("builtin:shapes").identity["denoiser"], "that of the model beneath"


@pytest.mark.parametrize(("kind", "texts", "joined"), [
    ("dit", ["2", "0", "1"], {"class_labels": [2, 0, 1]}),
    ("qwen_image", ["a cat", "two dogs, a hill", "red"], {"prompt": ["a cat", "two dogs, a hill", "red"], "negative_prompt": [" "] * 3}),
])  # fmt: skip
def test_families_with_calls_of_their_own(kind, texts, joined, tmp_path):
    drawer = load_drawer(str(tiny.build(kind, tmp_path / "model")))
    side = 16 if kind == "dit" else 32
    arguments = drawer.arguments(texts, side, side)
    assert {name: arguments[name] for name in joined} == joined and drawer.batch_size == 4
    prompts = PromptSet("mine", tuple(Prompt(str(i), text) for i, text in enumerate(texts)), {"note": ""})
    settings = {"num_inference_steps": 2, "height": side, "width": side, "quiet": True}
    sets = [generate_set(drawer, prompts, tmp_path / str(n), batch_size=n, **settings).images for n in (1, 3)]
    alone, together = (np.stack([np.asarray(Image.open(path), dtype=int) for path in found.paths]) for found in sets)
    assert np.abs(alone - together).max() <= 1 and len({picture.tobytes() for picture in together}) == 3
    assert drawer.model.guidance_argument in sets[0].settings["settings"]


def test_the_whole_command(run, tmp_path, capsys):
    flags = ("--prompts", "builtin:shapes", "--count", 2, "--num-inference-steps", 2, "--device", "cpu", "--images-per-prompt", 2)
    code, out, err = call(capsys, "--model", run, "--output-dir", tmp_path / "out", *flags)
    assert code == 0 and out.splitlines() == [
        "4 pictures of 2 prompts (4 drawn, 0 were there)", f"{tmp_path}/out/metadata.jsonl  {tmp_path}/out/generation.json",
    ]  # fmt: skip
    found = ImageSet.read(tmp_path / "out")
    assert found.model == str(run) and found.settings["about"]["base"] == "builtin:shapes" and len(found) == 4
    drawn = generate(load_drawer(str(run)).pipeline, load_prompts("builtin:shapes", 2).texts, num_inference_steps=2, guidance_scale=1.5)
    assert np.abs(np.asarray(Image.open(found.paths[2]), dtype=int) - eight_bit(drawn)[1].numpy()).max() <= 1
    before = (tmp_path / "out" / "metadata.jsonl").read_bytes()
    assert "(0 drawn, 4 were there)" in call(capsys, "--model", run, "--output-dir", tmp_path / "out", *flags)[1]
    assert (tmp_path / "out" / "metadata.jsonl").read_bytes() == before
    code, out, err = call(capsys, "--model", "builtin:shapes", "--output-dir", tmp_path / "out", *flags)
    assert code == 2 and "model.adapter" in err and "None now" in err and "Traceback" not in err


def test_shards_and_mistakes(tmp_path, capsys):
    flags = ("--model", "builtin:shapes", "--num-inference-steps", 1, "--device", "cpu", "--output-dir", tmp_path / "out")
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("\n".join(json.dumps({"id": f"p{i}", "prompt": text}) for i, text in enumerate(scenes.prompts("test", 3))))
    out = call(capsys, *flags, "--prompts", prompts, "--batch-size", 2, "--shard", "1/2")[1]
    assert out.startswith("1 pictures of 3 prompts (1 drawn, 0 were there; 2 are for other shards)")
    out = call(capsys, *flags, "--prompts", prompts, "--batch-size", 2, "--shard", "0/2")[1]
    assert out.startswith("3 pictures of 3 prompts (2 drawn, 0 were there)\n")
    for wrong, said in (
        (("--prompts", prompts, "--shard", "2/2"), "shard is '2/2'; it must be i/N"),
        (("--prompts", "partyprompts"), "prompts 'partyprompts': no list has this name; did you mean parti"),
        (("--prompts", "geneval", "--prompts-file", tmp_path / "none"), "none does not exist; wanted is djghosh13/geneval"),
        (("--prompts", prompts, "--layout", "geneval"), "the layout geneval numbers its prompts, and the id 'p0' is no number"),
        (("--prompts", PAIRS.parent / "model" / "model_index.json"), "model_index.json: needed is a list"),
    ):
        code, _, err = call(capsys, *flags, *wrong)
        assert code == 2 and said in err and "Traceback" not in err, err
