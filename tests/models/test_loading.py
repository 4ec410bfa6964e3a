"""Names, folders, single files, and what is said when something is missing."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffalign.llm.models import load_language_model
from diffalign.models import load_model, places
from tests.models.shared import inputs
from tests.tiny import to_single_file


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sd21-zero-snr", "sdxl"])
def test_single_file_predicts_and_encodes_as_its_folder(kind, folders, tmp_path):
    folder = load_model(folders(kind))
    file = load_model(str(to_single_file(folders(kind), tmp_path / "model.safetensors")), config=folders(kind))
    assert file.family == folder.family and file.path.prediction_type == folder.path.prediction_type
    assert file.provenance() == folder.provenance()
    x_t, t, conditioning = inputs(folder)
    assert torch.equal(file.predict(*inputs(file)), folder.predict(x_t, t, conditioning))
    file.release_encoders()
    pipeline = file.pipeline()
    assert torch.equal(pipeline.vae.decoder.conv_in.weight, folder.vae.decoder.conv_in.weight)
    assert pipeline.unet is file.denoiser


def test_single_file_in_half_precision(folders, tmp_path):
    file = to_single_file(folders("sdxl"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="of family 'sdxl' and config=.* of family 'sd'"):
        load_model(str(file), config=folders("sd15"))
    model = load_model(str(file), config=folders("sdxl"), dtype=torch.bfloat16)
    assert (model.dtype, model.vae.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(model.vae.quant_conv.weight, load_model(folders("sdxl")).vae.quant_conv.weight)
    save_file({key: value.half() for key, value in load_file(file).items()}, file)  # as SDXL is distributed
    model = load_model(str(file), config=folders("sdxl"))
    assert (model.dtype, model.vae.dtype, model.text_encoders["text_encoder_2"].dtype) == (torch.float32,) * 3


def test_family_of_a_file_without_config_comes_from_its_keys(folders, tmp_path):
    for kind, family in (("sd15", "sd"), ("sd21", "sd"), ("sdxl", "sdxl")):
        assert places.family_of_file(str(to_single_file(folders(kind), tmp_path / f"{kind}.safetensors"))) == family
    unet_only = tmp_path / "unet.safetensors"
    save_file({"model.diffusion_model.out.2.bias": torch.zeros(4)}, unet_only)
    with pytest.raises(ValueError, match="neither Stable Diffusion's"):
        load_model(str(unet_only))
    save_file({"unet.to_q.lora_A.weight": torch.zeros(4)}, unet_only)
    with pytest.raises(ValueError, match="LoRA files are loaded with lora.load"):
        load_model(str(unet_only))


def test_replacement_vae_from_folder_and_file(folders, tmp_path):
    vae = load_model(folders("sdxl")).vae
    with torch.no_grad():
        vae.quant_conv.bias += 1
    vae.register_to_config(force_upcast=False)
    vae.save_pretrained(tmp_path / "vae")
    model = load_model(folders("sdxl"), vae=str(tmp_path / "vae"), dtype=torch.bfloat16)
    assert model.vae.dtype == torch.bfloat16  # the replacement is safe in half precision
    file = to_single_file(folders("sdxl"), tmp_path / "whole.safetensors")
    state = {k.removeprefix("first_stage_model."): v for k, v in load_file(file).items() if k.startswith("first_stage_model.")}
    state["quant_conv.bias"] += 1
    save_file(state, tmp_path / "vae.safetensors")
    again = load_model(folders("sdxl"), vae=str(tmp_path / "vae.safetensors"))
    assert torch.equal(again.vae.quant_conv.bias, vae.quant_conv.bias)
    again.release_encoders()
    assert torch.equal(again.pipeline().vae.quant_conv.bias, vae.quant_conv.bias)


def changed_copy(folder, to, **index):
    shutil.copytree(folder, to)
    file = to / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | index))
    return str(to)


def test_errors_name_what_is_wrong_and_what_to_do(folders, tmp_path):
    def refused(message, name, **options):
        with pytest.raises(ValueError, match=message):
            load_model(name, **options)

    refused("has no model_index.json", folders("sd15") + "/unet")
    refused("has no VAE in its model_index.json: pass one with vae=", changed_copy(folders("sd15"), tmp_path / "a", vae=[None, None]))
    other = changed_copy(folders("sd15"), tmp_path / "b", _class_name="KolorsPipeline")
    refused(r"is a KolorsPipeline, supported are StableDiffusionPipeline \(sd\), StableDiffusionXLPipeline \(sdxl\), .*DiTPipeline", other)
    no_folder = changed_copy(folders("sd15"), tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / "vae")
    refused("has no folder vae/", no_folder)
    refused("of family 'sd'", folders("sd15"), family="sdxl")
    refused("family must be one of sd, sdxl, sd3, flux, .* got 'wan'", folders("sd15"), family="wan")
    refused("guidance=2.0 is read by family 'flux' only", folders("sd15"), guidance=2.0)
    refused("dtype must be one of", folders("sd15"), dtype="float32")
    refused("config= is for single checkpoint files", folders("sd15"), config=folders("sd15"))
    refused("does not exist", str(tmp_path / "nothing"))
    refused("does not exist", "nothing.safetensors")
    refused("there is no embedded model 'builtin:cats'; there is: builtin:shapes", "builtin:cats")
    for name in ("model.ckpt", "model.pt", "model.bin"):
        (tmp_path / name).write_bytes(b"")
        refused("is a pickle.*convert it to safetensors", str(tmp_path / name))
    (tmp_path / "model.gguf").write_bytes(b"")
    refused("is a .gguf file", str(tmp_path / "model.gguf"))
    weights = tmp_path / "a" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(f"could not be loaded: .*{weights}.*Without the hub, pass a local", str(tmp_path / "a"), vae=folders("sd15") + "/vae")
    shutil.rmtree(tmp_path / "a" / "unet")
    refused("names a unet in its model_index.json but has no folder unet/", str(tmp_path / "a"), vae=folders("sd15") + "/vae")


def test_unreachable_hub_says_how_to_do_without(monkeypatch, folders, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'nobody/no-such-model' is no folder here and could not .*pass a local diffusers folder"):
        load_model("nobody/no-such-model")
    file = to_single_file(folders("sdxl"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="Without the hub, pass config= with a local folder"):
        load_model(str(file))


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    """A closed port of this machine stands for it; what waits between two tries would sleep."""
    from huggingface_hub import constants

    slept = []
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(ValueError, match=r"'nobody/no-such-model' is no folder here and .*Connection refused.*pass a local diffusers"):
        load_model("nobody/no-such-model")
    with pytest.raises(ValueError, match="'nobody/no-such-model' is no folder here and could not be fetched from the hub: .*refused"):
        load_language_model("nobody/no-such-model")
    assert slept == []


def test_what_the_hubs_cache_holds_needs_no_hub(monkeypatch, folders, tmp_path):
    from huggingface_hub import constants

    commit = "0" * 40
    cached = tmp_path / "models--somebody--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(folders("sd15"), cached / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert places.unreachable("somebody/tiny", "model_index.json", None) is None
    assert "offline mode is enabled" in places.unreachable("somebody/tiny", "other.json", None)


def test_an_empty_tokenizer_is_refused(folders, tmp_path):
    folder = tmp_path / "empty"
    shutil.copytree(folders("sd15"), folder)
    for file in (folder / "tokenizer").glob("*"):
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(ValueError, match="tokenizer"):
        load_model(str(folder))


def test_networks_that_a_preference_step_cannot_feed_are_refused(folders, tmp_path):
    from diffusers import UNet2DConditionModel

    for index, (change, message) in enumerate((({"in_channels": 9}, "inpainting"), ({"time_cond_proj_dim": 8}, "LCM"))):
        folder = tmp_path / str(index)
        shutil.copytree(folders("sd15"), folder)
        config = UNet2DConditionModel.load_config(folder / "unet")
        UNet2DConditionModel.from_config(config | change).save_pretrained(folder / "unet")
        with pytest.raises(ValueError, match=message):
            load_model(str(folder))


def test_builtin_resolves_to_the_worlds_folder(folders, tmp_path, monkeypatch):
    package = tmp_path / "tinyworld"
    (package / "assets").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(places.BUILTIN, "tiny", places.Embedded("tinyworld"))
    with pytest.raises(ValueError, match="'builtin:tiny' is not in this installation"):
        load_model("builtin:tiny")
    shutil.copytree(folders("sdxl"), package / "assets" / "model")
    assert load_model("builtin:tiny").name == "builtin:tiny"
