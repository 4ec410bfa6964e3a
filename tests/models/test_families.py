"""Each family against its own stock pipeline: the same conditioning, the same call of the network, the same latents."""

import gc
import logging
import weakref

import pytest
import torch

from diffalign.models import load_model
from tests.models.shared import PROMPTS, inputs
from tests.tiny import FAMILIES, TOKENS


def stock_calls(pipeline, **arguments):
    """What the stock pipeline feeds its UNet, and gets: a list of (x_t, t, keyword arguments, output)."""
    calls = []

    def record(module, args, kwargs, output):
        calls.append((args[0], args[1], kwargs, output[0]))

    hook = pipeline.unet.register_forward_hook(record, with_kwargs=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline(prompt=PROMPTS[0], height=16, width=16, num_inference_steps=2, guidance_scale=3.0, output_type="latent", **arguments)
    hook.remove()
    return calls


@pytest.mark.parametrize("kind", FAMILIES)
def test_predict_is_the_stock_pipelines_own_call(kind, folders):
    from diffusers import DiffusionPipeline

    model = load_model(folders(kind))
    assert model.family == FAMILIES[kind]
    assert model.path.prediction_type == ("v_prediction" if kind.startswith("sd21") else "epsilon")
    sizes = dict(original_size=(40, 24), crops_coords_top_left=(3, 5), target_size=(16, 16)) if kind == "sdxl" else {}
    empty, prompt = model.empty_prompt(), model.encode_prompts(PROMPTS[:1])
    conditioning = {key: torch.cat([empty[key], prompt[key]]) for key in prompt}  # stock order: unconditional first
    conditioning |= model.size_conditioning(*(torch.tensor([size, size]) for size in sizes.values())) if sizes else {}
    for x_t, t, _, output in stock_calls(DiffusionPipeline.from_pretrained(folders(kind)), **sizes):
        ours = model.predict(x_t, torch.full((2,), int(t)), conditioning)
        assert torch.equal(ours, output)


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_live_pipeline_makes_the_stock_calls_before_and_after_release(kind, folders):
    from diffusers import DiffusionPipeline

    stock = stock_calls(DiffusionPipeline.from_pretrained(folders(kind)), generator=torch.Generator().manual_seed(0))
    model = load_model(folders(kind))
    before = stock_calls(model.pipeline(), generator=torch.Generator().manual_seed(0))
    model.release_encoders()
    after = stock_calls(model.pipeline(), generator=torch.Generator().manual_seed(0))
    for calls in (before, after):
        assert all(torch.equal(ours[3], theirs[3]) for ours, theirs in zip(calls, stock, strict=True))


def test_prompts_of_sdxl_match_the_stock_encoder(folders):
    from diffusers import StableDiffusionXLPipeline

    pipeline, model = StableDiffusionXLPipeline.from_pretrained(folders("sdxl")), load_model(folders("sdxl"))
    states, negative, pooled, negative_pooled = pipeline.encode_prompt(PROMPTS)
    ours, empty = model.encode_prompts(PROMPTS), model.empty_prompt()
    assert torch.equal(ours["prompt_embeds"], states) and torch.equal(ours["pooled_prompt_embeds"], pooled)
    assert torch.equal(empty["prompt_embeds"], negative[:1]) and torch.equal(empty["pooled_prompt_embeds"], negative_pooled[:1])
    assert not empty["prompt_embeds"].any()  # force_zeros_for_empty_prompt


def test_sdxl_without_forced_zeros_encodes_the_empty_prompt(folders):
    model = load_model(folders("sdxl", force_zeros=False))
    encoded = model.encode_prompts([""])
    assert all(torch.equal(model.empty_prompt()[key], encoded[key]) and encoded[key].any() for key in encoded)
    model.release_encoders()
    assert not model.pipeline().config.force_zeros_for_empty_prompt


def test_time_ids_match_the_stock_ones(folders):
    model = load_model(folders("sdxl"))
    stock = model.pipeline()._get_add_time_ids((833, 1217), (7, 11), (1024, 768), torch.float32, text_encoder_projection_dim=48)
    ours = model.size_conditioning(torch.tensor([[833, 1217]]), torch.tensor([[7, 11]]), torch.tensor([[1024, 768]]))
    assert torch.equal(ours["add_time_ids"], stock)
    with pytest.raises(ValueError, match=r"must be \(N, 2\) each"):
        model.size_conditioning(torch.ones(2, 2), torch.ones(1, 2), torch.ones(2, 2))


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_images_encode_to_scaled_moments(kind, folders):
    model = load_model(folders(kind))
    images = torch.rand(2, 3, 16, 32) * 2 - 1
    posterior = model.vae.encode(images).latent_dist
    mean, std = model.encode_images(images)
    assert mean.shape[1:] == model.latent_shape(16, 32) == (4, 8, 16)
    assert torch.equal(mean, posterior.mean * model.vae.config.scaling_factor)
    assert torch.equal(std, posterior.std * model.vae.config.scaling_factor)
    model.vae_config["shift_factor"] = 0.5
    assert torch.allclose(model.encode_images(images)[0], (posterior.mean - 0.5) * model.vae.config.scaling_factor)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encode_images(images)[1], std)
    with pytest.raises(ValueError, match="multiples of 2"):
        model.encode_images(images[..., :31])
    with pytest.raises(ValueError, match="floating point in"):
        model.encode_images((images * 127).to(torch.uint8))


@pytest.mark.parametrize("kind", ["sd15", "sd3", "qwen_image", "sana"])
def test_latents_decode_to_what_the_vae_alone_makes_of_its_own(kind, folders):
    """Scaling, shifting and the frame axis are undone: against decode(encode(x)) of the VAE itself."""
    model = load_model(folders(kind))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        encoded = model.vae.encode(images[:, :, None] if kind == "qwen_image" else images)
        own = model.vae.decode(encoded.latent if kind == "sana" else encoded.latent_dist.mode()).sample
    expected = (own[:, :, 0] if kind == "qwen_image" else own).clamp(-1, 1)
    torch.testing.assert_close(model.decode_images(model.encode_images(images)[0]), expected, rtol=0, atol=1e-5)
    model.release_encoders()
    with pytest.raises(ValueError, match="was released: decode before release_encoders"):
        model.decode_images(torch.zeros(1, 4, 4, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_vae_in_float32_where_it_must(dtype, folders):
    model = load_model(folders("sdxl"), dtype=dtype)
    assert (model.dtype, model.vae.dtype, model.text_encoders["text_encoder"].dtype) == (dtype, torch.float32, dtype)
    assert model.encode_images(torch.zeros(1, 3, 16, 16))[0].dtype == torch.float32
    assert model.predict(*inputs(model)).dtype == dtype
    pipeline = model.pipeline()
    assert pipeline.vae.dtype == dtype and model.vae.dtype == torch.float32  # the stock pipeline upcasts by itself; ours stays
    assert torch.isfinite(torch.from_numpy(pipeline("a circle", height=16, width=16, num_inference_steps=1, output_type="np").images)).all()
    assert load_model(folders("sd15"), dtype=dtype).vae.dtype == dtype


def test_long_prompts_are_cut_at_the_tokenizers_own_length_and_warned_of_once(folders, caplog):
    model = load_model(folders("sdxl"))
    long = ["red " * 40, "a circle", "blue " * 30]
    with caplog.at_level(logging.WARNING, "diffalign"):
        states = model.encode_prompts(long)["prompt_embeds"]
        model.encode_prompts(long)
    assert states.shape[1] == TOKENS and model.truncated_prompts == 4
    assert [record.getMessage().split(" of '")[0] for record in caplog.records] == [f"2 of 3 prompts exceed the {TOKENS} tokens"]
    with pytest.raises(ValueError, match="list of strings"):
        model.encode_prompts("a circle")


def test_prompts_that_will_be_cut_are_counted_before(folders):
    """By hand: CLIP puts two tokens around a prompt, and a word of the tiny vocabulary is one."""
    model = load_model(folders("sdxl"))
    fits, over = " ".join(["a"] * (TOKENS - 2)), " ".join(["a"] * (TOKENS - 1))
    assert model.token_limits() == {"tokenizer": TOKENS, "tokenizer_2": TOKENS}
    assert model.too_long(["a red circle", fits]) == {}
    assert model.too_long([over, fits, over + " a"]) == {"tokenizer": (TOKENS, 2), "tokenizer_2": (TOKENS, 2)}


def test_release_frees_the_encoders_and_says_so_afterwards(folders):
    model = load_model(folders("sdxl"))
    x_t, t, conditioning = inputs(model)
    prediction, facts = model.predict(x_t, t, conditioning), model.provenance()
    gone = [weakref.ref(part) for part in (model.vae, *model.text_encoders.values())]
    model.release_encoders()
    gc.collect()
    assert [part() for part in gone] == [None, None, None]
    assert torch.equal(model.predict(x_t, t, conditioning), prediction) and model.provenance() == facts
    assert model.empty_prompt()["prompt_embeds"].shape == (1, TOKENS, 80) and model.latent_shape(16, 16) == (4, 8, 8)
    with pytest.raises(ValueError, match="text encoders of .* were released"):
        model.encode_prompts(["a circle"])
    with pytest.raises(ValueError, match="VAE of .* was released"):
        model.encode_images(torch.zeros(1, 3, 16, 16))
    pipeline = model.pipeline(with_text=False)
    assert pipeline.text_encoder is None and pipeline.tokenizer_2 is None and pipeline.unet is model.denoiser
    model.release_encoders()


def test_provenance_depends_on_content_not_on_place(folders, tmp_path):
    import shutil

    moved = shutil.copytree(folders("sd15"), tmp_path / "moved")
    facts = load_model(folders("sd15")).provenance()
    assert load_model(str(moved)).provenance() == facts
    changed = load_model(str(moved))
    with torch.no_grad():
        changed.vae.quant_conv.bias += 1
    assert changed.provenance()["vae"] != facts["vae"]
    assert load_model(folders("sd15"), dtype=torch.bfloat16).provenance()["vae_dtype"] == "bfloat16"


def test_conditioning_must_be_what_the_family_reads(folders):
    model = load_model(folders("sdxl"))
    x_t, t, conditioning = inputs(model)
    with pytest.raises(ValueError, match="reads exactly .*add_time_ids.*"):
        model.predict(x_t, t, {"prompt_embeds": conditioning["prompt_embeds"]})
