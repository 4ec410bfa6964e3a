"""Exports: names as published, the trained strength at alpha != rank, and the trained predictions after other readers have loaded them."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffalign import __version__, cli
from diffalign.models import load_model, lora
from diffalign.models.adapter_layouts import PLACES, REFUSED, Layer, formats, lay_out
from diffalign.models.export import FORMATS, export, layers_of
from diffalign.models.loading import FAMILIES
from diffalign.models.lora_files import FILE
from tests import tiny
from tests.models.shared import PROMPTS, inputs, jolt
from tests.models.test_transformer_loading import sd3_file

RANK, ALPHA = 4, 2
CONVOLUTIONS = ["conv_in", "conv_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "proj_in", "attn2.to_k"]
STREAMS = ("attn.to_q", "attn.to_v", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_out.0", "attn.to_add_out",
           "ff.net.0.proj", "ff.net.2", "ff_context.net.2", "norm1.linear")  # fmt: skip
FLUX = [f"transformer_blocks.0.{name}" for name in STREAMS]
FLUX += [f"single_transformer_blocks.0.{name}" for name in ("proj_out", "norm.linear")]


def trained(folder, targets="attention", **options):
    """A model with an adapter of rank 4 and alpha 2 that changes its predictions."""
    model = load_model(folder, **options)
    lora.add(model.denoiser, rank=RANK, alpha=ALPHA, targets=targets, seed=0)
    jolt(model.denoiser)
    return model


def picture(model, pipeline) -> torch.Tensor:
    side = 32 if model.family == "sana" else 16
    arguments = {"class_labels": [1]} if model.family == "dit" else model.sampling_arguments(PROMPTS[0], side, side)
    generator = torch.Generator().manual_seed(0)
    pipeline.set_progress_bar_config(disable=True)
    return torch.as_tensor(pipeline(**arguments, num_inference_steps=2, generator=generator, output_type="np").images)


def name_of(family, name, layout="kohya", **config):
    """The module of the file's keys for a layer of diffusers."""
    layer = Layer(name, torch.ones(RANK, 3), torch.ones(2, RANK), ALPHA / RANK)
    sizes = {member: 2 for member in PLACES[family](name, config).members}
    (key,) = (key for key in lay_out([layer], family, layout, config, sizes) if key.endswith(".alpha"))
    return key.removesuffix(".alpha")


@pytest.mark.parametrize(
    ("family", "name", "published"),
    [
        ("sd", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"),
        ("sd", "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.2", "up_blocks_1_attentions_2_transformer_blocks_0_ff_net_2"),
        ("sd", "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0", "mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"),
        ("sdxl", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "input_blocks_4_1_transformer_blocks_0_attn1_to_q"),
        ("sdxl", "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k", "input_blocks_8_1_transformer_blocks_9_attn2_to_k"),
        ("sdxl", "mid_block.attentions.0.proj_in", "middle_block_1_proj_in"),
        ("sdxl", "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_k", "output_blocks_5_1_transformer_blocks_1_attn2_to_k"),
        ("sdxl", "up_blocks.1.resnets.0.conv1", "output_blocks_3_0_in_layers_2"),
        ("sdxl", "mid_block.resnets.1.time_emb_proj", "middle_block_2_emb_layers_1"),
        ("sdxl", "down_blocks.0.downsamplers.0.conv", "input_blocks_3_0_op"),
        ("sdxl", "up_blocks.0.upsamplers.0.conv", "output_blocks_2_2_conv"),
        ("sdxl", "add_embedding.linear_2", "label_emb_0_2"),
        ("sd3", "transformer_blocks.0.attn.to_q", "joint_blocks_0_x_block_attn_qkv"),
        ("sd3", "transformer_blocks.23.attn.add_v_proj", "joint_blocks_23_context_block_attn_qkv"),
        ("sd3", "transformer_blocks.5.attn2.to_k", "joint_blocks_5_x_block_attn2_qkv"),
        ("flux", "transformer_blocks.18.attn.to_k", "double_blocks_18_img_attn_qkv"),
        ("flux", "transformer_blocks.0.ff_context.net.2", "double_blocks_0_txt_mlp_2"),
        ("flux", "single_transformer_blocks.37.proj_mlp", "single_blocks_37_linear1"),
        ("flux", "single_transformer_blocks.0.proj_out", "single_blocks_0_linear2"),
        ("qwen_image", "transformer_blocks.0.attn.to_out.0", "transformer_blocks_0_attn_to_out_0"),
        ("z_image", "layers.0.attention.to_q", "layers_0_attention_to_q"),
    ],
)
def test_kohyas_names_are_the_published_ones(family, name, published):
    """Written by hand from files and key lists that others published. SDXL has two resnets a block, SD3 medium 24 blocks."""
    up = ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]
    assert name_of(family, name, layers_per_block=2, up_block_types=up, num_layers=24) == f"lora_unet_{published}"


def test_comfyuis_names():
    assert name_of("flux", "transformer_blocks.0.attn.to_q", "comfyui") == "diffusion_model.double_blocks.0.img_attn.qkv"
    assert name_of("sd3", "transformer_blocks.1.ff.net.2", "comfyui", num_layers=24) == "diffusion_model.joint_blocks.1.x_block.mlp.fc2"
    assert name_of("qwen_image", "transformer_blocks.0.img_mlp.net.2", "comfyui") == "diffusion_model.transformer_blocks.0.img_mlp.net.2"
    assert name_of("z_image", "layers.0.attention.to_out.0", "comfyui") == "diffusion_model.layers.0.attention.to_out.0"
    unet = "mid_block.attentions.0.proj_in"
    assert name_of("sd", unet, "comfyui") == name_of("sd", unet) == "lora_unet_mid_block_attentions_0_proj_in"


def test_fused_layers_add_up_by_hand():
    """q with scale 1 and v with 1/2 of a layer whose k has no adapter: rows 3 x (1, 2), then two of zeros, then 2 x 1/2 x (1, 0)."""
    start = "transformer_blocks.0.attn."
    q = Layer(start + "to_q", torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]), 1.0)
    v = Layer(start + "to_v", torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0]]), 0.5)
    sizes = {start + "to_q": 1, start + "to_k": 2, start + "to_v": 1}
    out = lay_out([v, q], "flux", "kohya", {}, sizes)
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    assert sorted(out) == [f"{key}.alpha", f"{key}.lora_down.weight", f"{key}.lora_up.weight"]
    assert out[f"{key}.alpha"].item() == 2.0  # rank 2, scale 1
    assert out[f"{key}.lora_up.weight"].tolist() == [[3, 0], [0, 0], [0, 0], [0, 1]]
    change = out[f"{key}.lora_up.weight"] @ out[f"{key}.lora_down.weight"]
    assert change.tolist() == [[3, 6], [0, 0], [0, 0], [1, 0]]


STOCK = [
    ("sd15", "kohya", "all-linear"), ("sd15", "kohya", CONVOLUTIONS), ("sd21", "comfyui", "attention+ff"), ("sdxl", "kohya", "all-linear"),
    ("sdxl", "kohya", CONVOLUTIONS), ("sdxl", "comfyui", "attention"), ("flux", "kohya", FLUX), ("flux", "comfyui", FLUX),
    ("qwen_image", "kohya", "all-linear"), ("qwen_image", "comfyui", "attention"), ("z_image", "kohya", "attention+ff"),
    ("z_image", "comfyui", "attention"), ("sdxl", "diffusers", "attention"), ("sd3.5", "diffusers", "attention"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "layout", "targets"), STOCK)
def test_the_stock_loader_gives_our_predictions_and_pictures(kind, layout, targets, folders, tmp_path):
    from diffusers import DiffusionPipeline

    model = trained(folders(kind), targets)
    x_t, t, conditioning = inputs(model)
    ours = model.predict(x_t, t, conditioning)
    with lora.disabled(model.denoiser):
        assert (model.predict(x_t, t, conditioning) - ours).abs().max() > 1e-2
    file = export(model, tmp_path / "adapter.safetensors", layout)
    assert list(tmp_path.iterdir()) == [file]
    stock = DiffusionPipeline.from_pretrained(folders(kind))
    stock.load_lora_weights(str(file))
    theirs = model.predict(x_t, t, conditioning, network=stock.components[model.denoiser_name])
    assert (theirs - ours).abs().max() < 1e-5
    if targets == "attention" or kind == "flux":
        assert (picture(model, stock) - picture(model, model.pipeline())).abs().max() <= 1 / 255


def with_the_file(adapter: Path, checkpoint: Path) -> Path:
    """The checkpoint in the original layout with the adapter's changes added by name, as ComfyUI and sd-scripts do."""
    state, change, prefix = load_file(checkpoint), load_file(adapter), "model.diffusion_model."
    names = {}
    for key in state:
        if key.startswith(prefix) and key.endswith(".weight"):
            name = key.removeprefix(prefix).removesuffix(".weight")
            names |= {f"lora_unet_{name.replace('.', '_')}": key, f"diffusion_model.{name}": key}
    modules = {key.removesuffix(".alpha") for key in change if key.endswith(".alpha")}
    assert modules and modules <= set(names) and len(change) == 3 * len(modules)
    for module in modules:
        down, up = change[f"{module}.lora_down.weight"], change[f"{module}.lora_up.weight"]
        product = (up.flatten(1) @ down.flatten(1)).reshape(state[names[module]].shape)
        state[names[module]] = state[names[module]] + change[f"{module}.alpha"] / len(down) * product
    save_file(state, checkpoint)
    return checkpoint


@pytest.mark.parametrize(
    ("kind", "layout", "targets"),
    [
        ("sdxl", "kohya", "all-linear"), ("sdxl", "comfyui", CONVOLUTIONS), ("sd3", "kohya", "attention+ff"),
        ("sd3.5", "comfyui", "all-linear"),
    ],  # fmt: skip
)
def test_added_to_the_original_checkpoint_by_name_it_gives_our_predictions(kind, layout, targets, folders, tmp_path):
    """Names, order and strength against diffusers' reader of original checkpoints, which knows nothing of adapters."""
    model = trained(folders(kind), targets)
    file = export(model, tmp_path / "adapter.safetensors", layout)
    write = tiny.to_single_file if kind == "sdxl" else sd3_file
    write(Path(folders(kind)), tmp_path / "whole.safetensors")
    whole = load_model(str(with_the_file(file, tmp_path / "whole.safetensors")), config=folders(kind))
    assert (whole.predict(*inputs(whole)) - model.predict(*inputs(model))).abs().max() < 1e-5


@pytest.mark.parametrize("layout", ["kohya", "comfyui"])
def test_fluxs_single_blocks_come_back_at_their_real_width(layout):
    """diffusers' reader has FLUX's widths written into it, so a tiny model's cannot be read: here 3072 and 12288."""
    from diffusers import FluxPipeline

    start, noise = "single_transformer_blocks.0.", torch.Generator().manual_seed(0)
    sizes = {start + "attn.to_q": 3072, start + "attn.to_k": 3072, start + "attn.to_v": 3072, start + "proj_mlp": 12288}
    layers = [
        Layer(name, torch.randn(RANK, 3072, generator=noise), torch.randn(out, RANK, generator=noise), ALPHA / RANK)
        for name, out in sizes.items()
    ]
    read = FluxPipeline.lora_state_dict(lay_out(layers, "flux", layout, {}, sizes))
    assert len(read) == 8
    for layer in layers:
        assert torch.equal(read[f"transformer.{layer.name}.lora_A.weight"], layer.down * 0.5)
        assert torch.equal(read[f"transformer.{layer.name}.lora_B.weight"], layer.up)


def test_outside_fluxs_blocks_diffusers_reads_the_names_but_not_the_strength():
    """Rows of the last modulation in the original's order (shift, scale). diffusers 0.42.1 drops these layers' alpha (docs/exports.md)."""
    from diffusers import FluxPipeline

    layers = [
        Layer("norm_out.linear", torch.randn(RANK, 8), torch.arange(6.0)[:, None].repeat(1, RANK), ALPHA / RANK),
        Layer("proj_out", torch.randn(RANK, 8), torch.randn(6, RANK), ALPHA / RANK),
    ]
    out = lay_out(layers, "flux", "kohya", {}, {})
    assert out["lora_unet_final_layer_adaLN_modulation_1.lora_up.weight"][:, 0].tolist() == [3, 4, 5, 0, 1, 2]
    assert out["lora_unet_final_layer_adaLN_modulation_1.alpha"] == out["lora_unet_final_layer_linear.alpha"] == ALPHA
    read = FluxPipeline.lora_state_dict(out)
    assert all(torch.equal(read[f"{layer.name}.lora_B.weight"], layer.up) for layer in layers)
    assert all(torch.equal(read[f"{layer.name}.lora_A.weight"], layer.down) for layer in layers)


KINDS = ["sd15", "sdxl", "sd3", "flux", "pixart_sigma", "lumina2", "qwen_image", "z_image", "sana", "dit"]


@pytest.mark.parametrize("kind", KINDS)
def test_merged_pipeline_predicts_and_draws_as_with_the_adapter(kind, folders, tmp_path):
    from diffusers import DiffusionPipeline

    model = trained(folders(kind), "attention+ff")
    x_t, t, conditioning = inputs(model)
    ours, drawn = model.predict(x_t, t, conditioning), picture(model, model.pipeline())
    folder = export(model, tmp_path / "merged", "merged")
    assert not lora.adapter_names(model.denoiser) and not any("lora" in key for key in model.denoiser.state_dict())
    lacking = {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3" else {}  # of a model without T5 diffusers wants to be told
    stock = DiffusionPipeline.from_pretrained(folder, **lacking)
    assert (model.predict(x_t, t, conditioning, network=stock.components[model.denoiser_name]) - ours).abs().max() < 1e-5
    assert (picture(model, stock) - drawn).abs().max() <= 1 / 255
    assert list(tmp_path.iterdir()) == [folder]


def test_merging_rounds_once(folders, tmp_path):
    model = trained(folders("sd15"), ["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"], dtype=torch.bfloat16)
    (layer,) = layers_of(model.denoiser)
    before = model.denoiser.get_submodule(layer.name).get_base_layer().weight.clone()
    export(model, tmp_path / "merged", "merged")
    exact = (before.float() + 0.5 * layer.up @ layer.down).bfloat16()
    assert torch.equal(model.denoiser.get_submodule(layer.name).weight, exact)


def test_the_header_and_the_alphas(folders, tmp_path):
    model = trained(folders("sd21"))
    file = export(model, tmp_path / "mine.safetensors", "kohya", dtype=torch.float16)
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    assert header == {
        "format": "pt", "diffalign.version": __version__, "diffalign.base_model": folders("sd21"), "diffalign.family": "sd",
        "ss_network_dim": "4", "ss_network_alpha": "2.0", "ss_base_model_version": "sd_v2_v", "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v2-768-v/lora", "modelspec.implementation": "diffusers", "modelspec.title": "mine",
        "modelspec.prediction_type": "v",
    }  # fmt: skip
    tensors = load_file(file)
    alphas = [value for key, value in tensors.items() if key.endswith(".alpha")]
    assert len(alphas) * 3 == len(tensors) and all(alpha.item() == ALPHA for alpha in alphas)
    assert {value.dtype for key, value in tensors.items() if not key.endswith(".alpha")} == {torch.float16}
    with safe_open(export(model, tmp_path / "again.safetensors", "diffusers"), framework="pt") as opened:
        header = opened.metadata()
    assert json.loads(header["lora_adapter_metadata"])["unet.lora_alpha"] == ALPHA and header["ss_network_alpha"] == "2.0"


def test_every_family_has_names_or_a_reason():
    assert set(PLACES) | set(REFUSED) == set(FAMILIES) and not set(PLACES) & set(REFUSED)
    assert formats("sd") == ", ".join(FORMATS) and formats("sana") == "diffusers, merged" and formats("dit") == "merged"


@pytest.mark.parametrize(
    ("kind", "layout", "line"),
    [
        ("sana", "kohya", "no adapters of family 'sana' are written for kohya: no reader of such files is known. Formats for it: d"),
        ("pixart_sigma", "comfyui", "no adapters of family 'pixart_sigma' are written for comfyui: diffusers reads no adapters of it"),
        ("dit", "diffusers", "diffusers has no loader for adapters of family 'dit': the adapter's folder is in peft's format already"),
    ],
)
def test_what_a_family_has_no_file_for(kind, layout, line, folders, tmp_path):
    with pytest.raises(ValueError, match=line):
        export(trained(folders(kind)), tmp_path / "a" / "x.safetensors", layout)
    assert not list((tmp_path / "a").iterdir())


def test_refusals(folders, tmp_path):
    model = trained(folders("sd15"))
    taken = tmp_path / "taken.safetensors"
    taken.write_text("")
    for output, layout, line in (
        (taken, "kohya", "'.*taken.safetensors' is there already: name another, or remove it first"),
        (tmp_path / "folder", "kohya", "an adapter for kohya is one file, and the output '.*folder' is none: name it '.*/pytorch_lora"),
        (tmp_path / "x.safetensors", "merged", "a merged model is a folder, and the output '.*' is named as a file"),
        (tmp_path / "x.safetensors", "a1111", "the format must be one of diffusers, kohya, comfyui, merged, got 'a1111'"),
    ):
        with pytest.raises(ValueError, match=line):
            export(model, output, layout)
    with pytest.raises(ValueError, match="the model has no adapter named 'other'"):
        export(model, tmp_path / "x.safetensors", "kohya", name="other")
    model.denoiser.peft_config["default"].use_dora = True
    with pytest.raises(ValueError, match="the adapter is DoRA .* export it merged"):
        export(model, tmp_path / "x.safetensors", "kohya")
    with pytest.raises(ValueError, match="the adapter changes 'transformer_blocks.0.norm9', a layer without a known name in this layout"):
        lay_out([Layer("transformer_blocks.0.norm9", torch.ones(1, 1), torch.ones(1, 1), 1.0)], "flux", "kohya", {}, {})
    broken = trained(folders("sd15"))
    with torch.no_grad():
        lora.trainable_parameters(broken.denoiser)[1][0, 0] = float("nan")
    with pytest.raises(ValueError, match="adapter 'default' merges to weights that are not finite"):
        export(broken, tmp_path / "merged", "merged")
    assert list(tmp_path.iterdir()) == [taken]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as training leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "dpo"
    lora.save(trained("builtin:shapes"), folder / "lora")
    (folder / "config.yaml").write_text(yaml.safe_dump({"modality": "image", "model": "builtin:shapes", "variant": None, "vae": None}))
    return folder


def call(capsys, *argv):
    code = cli.main(["export", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_on_a_run_and_on_a_file(run, capsys, tmp_path):
    one, two, three = (tmp_path / f"{i}.safetensors" for i in range(3))
    code, out, err = call(capsys, run, "--format", "kohya", "--output", one)
    assert (code, out, err) == (0, f"{one}  (sdxl, kohya's scripts read it, and what reads their files)\n", "")
    tensors = load_file(one)
    assert all(key.startswith(("lora_unet_input_blocks_", "lora_unet_middle_block_1_", "lora_unet_output_blocks_")) for key in tensors)
    assert call(capsys, run / "lora" / FILE, "--base", "builtin:shapes", "--format", "comfyui", "--output", two)[0] == 0
    assert call(capsys, one, "--base", "builtin:shapes", "--format", "diffusers", "--output", three)[0] == 0  # from kohya's back
    assert all(torch.equal(tensors[key], value) for key, value in load_file(two).items())
    own = load_file(run / "lora" / FILE)
    back = {key.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B."): value for key, value in load_file(three).items()}
    assert set(back) == set(own) and all(torch.equal(back[key], own[key]) for key in own)


def test_the_command_merges(run, capsys, tmp_path):
    code, out, err = call(capsys, run, "--format", "merged", "--dtype", "bfloat16", "--output", tmp_path / "merged")
    assert code == 0 and err == "" and "(sdxl, DiffusionPipeline.from_pretrained reads it)" in out
    assert {value.dtype for value in load_file(tmp_path / "merged" / "unet" / "diffusion_pytorch_model.safetensors").values()} == {
        torch.bfloat16
    }


def test_the_commands_error_lines(run, folders, capsys, tmp_path):
    (tmp_path / "text" / "lora").mkdir(parents=True)
    (tmp_path / "text" / "config.yaml").write_text("modality: text\nmodel: builtin:sums")
    (tmp_path / "full" / "model").mkdir(parents=True)
    (tmp_path / "full" / "config.yaml").write_text("model: builtin:shapes")
    (tmp_path / "alone.safetensors").write_bytes((run / "lora" / FILE).read_bytes())
    lora.save(trained(folders("sdxl"), ["attn1.to_q"]), tmp_path / "sdxl")
    alone, sd = tmp_path / "sdxl" / FILE, ("--base", folders("sd15"))
    out = ("--output", tmp_path / "x.safetensors")
    for argv, line in (
        ((tmp_path / "text", "--format", "kohya", *out), "is of a run of modality text, and a model of images is asked for"),
        ((tmp_path / "full", "--format", "kohya", *out), "trained all weights: "),
        ((tmp_path / "alone.safetensors", "--format", "kohya", *out), "is no run and no adapter: pass the folder of a run"),
        ((run, "--format", "kohya", "--output", tmp_path / "folder"), "an adapter for kohya is one file"),
        ((run, "--base", folders("sd3"), "--format", "kohya", *out), "changes more than the denoiser"),
        ((run, *sd, "--format", "kohya", *out), f"is not of the model '{folders('sd15')}': name its own with --base"),
        ((alone, *sd, "--format", "kohya", *out), f"is not of the model '{folders('sd15')}': name its own with --base ("),
        ((tmp_path / "nowhere", "--base", "builtin:shapes", "--format", "kohya", *out), "there is no pytorch_lora_weights.safetensors"),
    ):
        code, stdout, err = call(capsys, *argv)
        last = err.splitlines()[-1]  # before it diffusers may have notes on what it loads
        assert code == 2 and stdout == "" and last.startswith("diffalign: error: ") and line in last, err
        assert "Traceback" not in err and "size mismatch" not in err
    assert not (tmp_path / "x.safetensors").exists()
