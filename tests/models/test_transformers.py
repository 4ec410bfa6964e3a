"""Families with a transformer, each against its own stock pipeline: the inputs of the network, its output, adapters, gradients, latents."""

import inspect
import logging

import numpy as np
import pytest
import torch

from diffalign.denoising import denoising_error
from diffalign.models import load_model, lora, make_reference
from tests.models.shared import CLASSES, PROMPTS, inputs, jolt, unused
from tests.tiny import TRANSFORMERS

FLOW = ("sd3", "sd3.5", "flux", "flux-schnell", "lumina2", "qwen_image", "z_image", "sana")
CLASS_CONDITIONAL = ("dit", "dit_moe")
TWO_CALLS = ("lumina2", "qwen_image")  # guidance is two calls a step
SIDES = {"lumina2": 64, "sana": 32}  # their pipelines take eight pixels a latent, or sides of 32 k, for granted; the tiny VAEs have 2 and 4
NO_LOADER = ("pixart_sigma", "pixart_alpha", *CLASS_CONDITIONAL)  # diffusers has no load_lora_weights for them


def stock_arguments(kind):
    """The stock pipeline's own arguments for one small image, written down without asking the model."""
    if kind in CLASS_CONDITIONAL:
        return {"class_labels": [0], "guidance_scale": 3.0}
    size = {"prompt": PROMPTS[0], "height": SIDES.get(kind, 16), "width": SIDES.get(kind, 16)}
    if kind.startswith(("pixart", "sana")):
        return {**size, "guidance_scale": 3.0, "use_resolution_binning": False}
    if kind == "qwen_image":
        return {**size, "negative_prompt": " ", "true_cfg_scale": 3.0}
    return size if kind.startswith("flux") else {**size, "guidance_scale": 3.0}


def recorded(network, run):
    """[(inputs by name, output)] of every call of the network during ``run()``: its tensors, PixArt's dict and Z-Image's lists of them."""
    calls = []

    def record(module, args, kwargs, output):
        bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        kept = ("added_cond_kwargs", "img_shapes", "x", "cap_feats")
        wanted = {name: value for name, value in bound.items() if torch.is_tensor(value) or name in kept}
        calls.append((wanted, output[0]))

    hook = network.register_forward_hook(record, with_kwargs=True)
    run()
    hook.remove()
    return calls


def draw(pipeline, kind, seed=0):
    """The stock pipeline's image, (H, W, 3) in 0..1."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    return pipeline(**stock_arguments(kind), num_inference_steps=2, generator=generator, output_type="np").images[0]


def stock(folder):
    from diffusers import DiffusionPipeline

    lacking = {"text_encoder_3": None, "tokenizer_3": None} if "sd3" in folder and "sd3.5" not in folder else {}
    return DiffusionPipeline.from_pretrained(folder, **lacking)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_predict_is_the_stock_pipelines_own_call(kind, folders):
    model, pipeline = load_model(folders(kind)), stock(folders(kind))
    assert model.family == TRANSFORMERS[kind] and model.path.continuous == (kind in FLOW)
    assert model.path.prediction_type == ("flow" if kind in FLOW else "epsilon")
    prompt, empty = model.encode_prompts((CLASSES if kind in CLASS_CONDITIONAL else PROMPTS)[:1]), model.empty_prompt()
    alone = (prompt,) if kind.startswith("flux") or kind in TWO_CALLS else None
    order = alone or ((prompt, empty) if kind in (*CLASS_CONDITIONAL, "z_image") else (empty, prompt))
    conditioning = {key: torch.cat([part[key] for part in order]) for key in prompt}
    conditioning |= model.size_conditioning(*[torch.full((len(order), 2), 16)] * 3)
    calls = recorded(pipeline.transformer, lambda: draw(pipeline, kind))
    assert len(calls) == (4 if kind in TWO_CALLS else 2)
    for i, (theirs, output) in enumerate(calls):
        if kind in TWO_CALLS:
            conditioning = (prompt, empty)[i % 2]
        x_t, t, expected = in_our_terms(kind, pipeline, theirs, output)
        predictions = []
        arguments = x_t, t, conditioning
        ((ours, _),) = recorded(model.denoiser, lambda given=arguments, into=predictions: into.append(model.predict(*given)))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert_same(ours[name], value, name)
        assert torch.equal(predictions[0], expected)
    if kind == "flux":
        assert torch.equal(calls[0][0]["guidance"], torch.tensor([3.5]))


def in_our_terms(kind, pipeline, theirs, output):
    """(x_t, t, prediction) of a recorded call: latents unpacked, flow's times 1 at the noise and its prediction noise - x0, no variance."""
    if kind == "z_image":  # lists of videos of one frame
        return torch.stack(theirs["x"])[:, :, 0], 1 - theirs["t"].double(), -torch.stack(output)[:, :, 0]
    x_t, t = theirs["hidden_states"], theirs["timestep"]
    if kind.startswith(("flux", "qwen")):
        x_t, expected = (pipeline._unpack_latents(part, 16, 16, pipeline.vae_scale_factor) for part in (x_t, output))
        return (x_t, t.double(), expected) if kind != "qwen_image" else (x_t[:, :, 0], t.double(), expected[:, :, 0])
    if kind == "lumina2":
        return x_t, 1 - t.double(), -output
    return x_t, t.double() / 1000 if kind in FLOW else t, output[:, :4]


def assert_same(ours, theirs, name):
    if isinstance(theirs, list) and torch.is_tensor(theirs[0]):
        assert len(ours) == len(theirs)
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{name}[{i}]")
    elif isinstance(theirs, list):
        assert ours == theirs, name
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{name}[{key}]")
    elif theirs is None:
        assert ours is None, name
    else:
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_live_pipeline_is_the_stock_one_before_and_after_release(kind, folders):
    expected, model = draw(stock(folders(kind)), kind), load_model(folders(kind))
    assert np.array_equal(draw(model.pipeline(), kind), expected)
    facts = model.provenance()
    model.release_encoders()
    assert model.provenance() == facts and np.array_equal(draw(model.pipeline(), kind), expected)
    assert model.pipeline(with_text=False).transformer is model.denoiser
    side = SIDES.get(kind, 16)
    arguments = model.sampling_arguments(CLASSES[0] if kind in CLASS_CONDITIONAL else PROMPTS[0], side, side)
    assert np.array_equal(draw_with(model.pipeline(), arguments, stock_arguments(kind)), expected)


def draw_with(pipeline, arguments, theirs):
    guidance = {name: value for name, value in theirs.items() if name in ("guidance_scale", "true_cfg_scale")}
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**arguments, **guidance, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images[0]


@pytest.mark.parametrize(("kind", "length"), [("sd3", 0), ("sd3", 7), ("sd3.5", 5), ("flux", 5), ("pixart_sigma", 5)])
def test_another_sequence_length_is_the_stock_calls(kind, length, folders):
    """PROMPTS[0] has more than 5 tokens for T5, so it is cut; sd3 has no T5, and 0 leaves the zeros in its place out."""
    model, usual, pipeline = load_model(folders(kind), max_sequence_length=length), load_model(folders(kind)), stock(folders(kind))
    prompt, empty = model.encode_prompts(PROMPTS[:1]), model.empty_prompt()
    order = (prompt,) if kind == "flux" else (empty, prompt)
    conditioning = {key: torch.cat([part[key] for part in order]) for key in prompt}
    images, arguments = [], {**stock_arguments(kind), "max_sequence_length": length}
    ((theirs, output), _) = recorded(pipeline.transformer, lambda: images.append(draw_with(pipeline, arguments, {})))
    x_t, t, expected = in_our_terms(kind, pipeline, theirs, output)
    assert torch.equal(model.predict(x_t, t, conditioning), expected)
    longer = usual.encode_prompts(PROMPTS[:1])["prompt_embeds"].shape[1] - prompt["prompt_embeds"].shape[1]
    assert longer == usual.max_sequence_length - length
    drawn = draw_with(model.pipeline(), model.sampling_arguments(PROMPTS[0], 16, 16), arguments)
    assert np.array_equal(drawn, images[0]) and not np.array_equal(drawn, draw(usual.pipeline(), kind))
    assert model.provenance() != usual.provenance()


def test_sequence_lengths_that_the_stock_call_does_not_take_are_refused(folders):
    for kind, length, allowed in (("sd3.5", 0, "1 to 512"), ("sd3", -1, "0 to 512"), ("flux", 513, "1 to 512")):
        with pytest.raises(ValueError, match=f"max_sequence_length is {length}; for .* it must be {allowed} tokens"):
            load_model(folders(kind), max_sequence_length=length)
    with pytest.raises(ValueError, match="max_sequence_length=5 is read by families sd3, flux, .* of family 'dit': leave it out"):
        load_model(folders("dit"), max_sequence_length=5)


@pytest.mark.parametrize("adapter", ["full", "fresh", "continued"])
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_policy_equals_reference_exactly(kind, adapter, folders, tmp_path):
    model = load_model(folders(kind))
    if adapter == "full":
        model.denoiser.requires_grad_(True)
    else:
        lora.add(model.denoiser, rank=2, alpha=4, seed=0)
    if adapter == "continued":
        jolt(model.denoiser)
    references = [make_reference(name, model, continued_adapter=adapter == "continued") for name in ("start", "ema")]
    model.denoiser.train()  # the policy's mode; references evaluate
    x_t, t, conditioning = inputs(model)
    target = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1))
    policy = denoising_error(model.predict(x_t, t, conditioning), target)
    for reference in references:
        assert reference.equals_policy_at_start
        assert torch.equal(policy - denoising_error(reference.predict(x_t, t, conditioning), target), torch.zeros(2))
    jolt(model.denoiser)
    moved = denoising_error(model.predict(x_t, t, conditioning), target)
    assert (moved != policy).all()
    for reference in references:
        assert torch.equal(denoising_error(reference.predict(x_t, t, conditioning), target), policy)


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        *((kind, "attention+ff") for kind in TRANSFORMERS),
        *((kind, "all-linear") for kind in ("sd3.5", "flux", *CLASS_CONDITIONAL)),
        ("flux", "attention"),
    ],
)
def test_saved_adapter_makes_the_live_images_in_a_stock_pipeline(kind, targets, folders, tmp_path):
    from peft import PeftModel

    model = load_model(folders(kind))
    base = draw(model.pipeline(), kind)
    lora.add(model.denoiser, rank=2, alpha=6, targets=targets, seed=0)
    assert np.array_equal(draw(model.pipeline(), kind), base)  # B is zero
    jolt(model.denoiser, size=0.2)
    trained = draw(model.pipeline(), kind)
    assert np.abs(trained - base).max() > 3 / 255
    file = lora.save(model, tmp_path)
    pipeline = stock(folders(kind))
    if kind in NO_LOADER:
        assert file.name == "adapter_model.safetensors"
        PeftModel.from_pretrained(pipeline.transformer, str(tmp_path))
    else:
        assert file.name == "pytorch_lora_weights.safetensors"
        pipeline.load_lora_weights(str(tmp_path))
    assert np.abs(draw(pipeline, kind) - trained).max() < 1 / 255

    again = load_model(folders(kind), dtype=torch.bfloat16)
    lora.load(again.denoiser, tmp_path)
    pairs = zip(lora.adapter_parameters(again.denoiser, "default"), lora.adapter_parameters(model.denoiser, "default"), strict=True)
    assert all(name == other and torch.equal(ours, theirs) for (name, ours), (other, theirs) in pairs)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_every_trainable_parameter_receives_a_gradient(kind, folders):
    for trained in ("full", "all-linear", "attention+ff"):
        model = load_model(folders(kind))
        model.denoiser.requires_grad_(True)
        if trained != "full":
            lora.add(model.denoiser, rank=2, targets=trained, seed=0)
            jolt(model.denoiser)
        model.denoiser.enable_gradient_checkpointing()
        model.denoiser.train()
        x_t, t, conditioning = inputs(model)
        denoising_error(model.predict(x_t, t, conditioning), torch.randn_like(x_t)).sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.denoiser.named_parameters() if parameter.requires_grad}
        assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)
        still = {name for name, gradient in gradients.items() if gradient is None or not gradient.any()}
        assert all(unused(kind, name) for name in still), still


@pytest.mark.parametrize("kind", ["sd3.5", "flux", "pixart_sigma", "dit", "z_image"])
def test_images_encode_to_shifted_and_scaled_moments(kind, folders):
    model = load_model(folders(kind))
    images = torch.rand(2, 3, 16, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = model.encode_images(images)
    posterior, config = model.vae.encode(images).latent_dist, model.vae.config
    assert mean.shape[1:] == model.latent_shape(16, 32) == (4, 8, 16) and model.image_multiple == 4
    assert torch.equal(mean, (posterior.mean - (config.shift_factor or 0)) * config.scaling_factor)
    assert torch.equal(std, posterior.std * config.scaling_factor)
    with pytest.raises(ValueError, match="both sides must be multiples of 4"):
        model.encode_images(images[..., :30])
    if kind == "sd3.5":
        with pytest.raises(ValueError, match="larger than .* has positions for: 48 pixels"):
            model.latent_shape(64, 16)
    assert model.default_resolution == {"flux": 256, "z_image": 1024}.get(kind, 16)


def test_images_encode_to_standardised_latents_of_one_frame(folders):
    """Qwen-Image: mean + std * n are the latents that the stock image-to-image pipeline draws."""
    from diffusers import QwenImageImg2ImgPipeline

    model = load_model(folders("qwen_image"))
    images = torch.rand(2, 3, 16, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = model.encode_images(images)
    assert mean.shape[1:] == model.latent_shape(16, 32) == (4, 8, 16) and model.image_multiple == 4 and model.default_resolution == 256
    assert model.vae.config.latents_mean[2] == 0.3 and model.vae.config.latents_std[2] == 1.2
    torch.testing.assert_close(mean[:, 2], (model.vae.encode(images[:, :, None]).latent_dist.mean[:, 2, 0] - 0.3) / 1.2)
    pipeline = QwenImageImg2ImgPipeline.from_pipe(stock(folders("qwen_image")))
    theirs = pipeline._encode_vae_image(images[:, :, None], torch.Generator().manual_seed(3))[:, :, 0]
    noise = torch.randn(2, 4, 1, 8, 16, generator=torch.Generator().manual_seed(3))[:, :, 0]
    torch.testing.assert_close(mean + std * noise, theirs)


def test_images_encode_to_points_of_a_deep_autoencoder(folders):
    """Sana: the stock decoding of the latents is the autoencoder's own reconstruction."""
    model, images = load_model(folders("sana")), torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = model.encode_images(images)
    assert mean.shape[1:] == model.latent_shape(32, 64) == (4, 8, 16) and model.image_multiple == 4 and model.default_resolution == 32
    assert not std.any() and torch.equal(mean, model.vae.encode(images).latent * 0.41407)
    torch.testing.assert_close(model.vae.decode(mean / 0.41407).sample, model.vae(images).sample)


def test_size_conditioning_of_pixart(folders):
    sizes = torch.tensor([[1024, 512], [64, 64]])
    assert load_model(folders("pixart_sigma")).size_conditioning(sizes, sizes, sizes) == {}
    model = load_model(folders("pixart_alpha"))
    ours = model.size_conditioning(sizes * 2, sizes * 0, sizes)
    assert torch.equal(ours["resolution"], sizes.float()) and ours["aspect_ratio"].tolist() == [[2.0], [1.0]]
    x_t, t, conditioning = inputs(model)
    del conditioning["resolution"]
    with pytest.raises(ValueError, match="reads exactly .*'aspect_ratio', .*'resolution'"):
        model.predict(x_t, t, conditioning)
    with pytest.raises(ValueError, match=r"targets must be \(N, 2\)"):
        model.size_conditioning(sizes, sizes, sizes[0])


def test_classes_are_prompts_of_dit(folders):
    model = load_model(folders("dit"))
    assert model.encode_prompts(["white shark", "great white shark", " 999", ""])["class_labels"].tolist() == [2, 2, 999, 1000]
    assert model.pipeline().labels == model.labels
    no_class = r"'a dog' is no class of .* \(Tinca tinca, .*numbers 0 to 999"
    for prompts, message in ((["a dog"], no_class), (["1000"], "is no class"), ("7", "list of strings")):
        with pytest.raises(ValueError, match=message):
            model.encode_prompts(prompts)
    with pytest.raises(ValueError, match="draws 16 x 16 only, got 32 x 16"):
        model.sampling_arguments("7", 32, 16)


def test_guidance_is_one_number_for_policy_and_reference(folders):
    model = load_model(folders("flux"))
    x_t, t, conditioning = inputs(model)
    usual = model.predict(x_t, t, conditioning)
    other = load_model(folders("flux"), guidance=1.0)
    assert other.guidance == 1.0 and not torch.equal(other.predict(x_t, t, conditioning), usual)
    model.set_guidance(1.0)
    assert torch.equal(other.predict(x_t, t, conditioning), model.predict(x_t, t, conditioning))
    with pytest.raises(ValueError, match="at least 0, got -1"):
        model.set_guidance(-1)
    with pytest.raises(ValueError, match="guidance=3.5, but .* is not told a guidance scale .*leave guidance out"):
        load_model(folders("flux-schnell"), guidance=3.5)


def test_long_prompts_name_the_tokenizers_that_cut_them(folders, caplog):
    long = ["red " * 30, "red " * 600, "a circle"]
    limits = {
        "flux": "2 of 3 prompts exceed the 24 (tokenizer), 512 (tokenizer_2)", "pixart_sigma": "1 of 3 prompts exceed the 300",
        "qwen_image": "1 of 3 prompts exceed the 546",  # 34 before the prompt
        "z_image": "1 of 3 prompts exceed the 512",
    }  # fmt: skip
    for kind, said in limits.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING, "diffalign"):
            model = load_model(folders(kind))
            model.encode_prompts(long)
        assert [record.getMessage().split(" of '")[0] for record in caplog.records] == [f"{said} tokens"]
        assert model.truncated_prompts == int(said[0])
        with pytest.raises(ValueError, match="list of strings"):
            model.encode_prompts("a circle")


LENGTHS = ["a circle", "a large red circle above a small blue square on a white background, " * 2, "Red " * 600]


@pytest.mark.parametrize("kind", ["qwen_image", "z_image", "sana"])
def test_prompts_of_all_lengths_encode_as_in_the_stock_pipeline(kind, folders):
    model, pipeline = load_model(folders(kind)), stock(folders(kind))
    states, mask = (model.encode_prompts(LENGTHS)[key] for key in model.conditioning_keys)
    assert states.shape[:2] == mask.shape == (3, model.max_sequence_length) and mask.dtype == torch.int64 and not mask[0].all()
    if kind == "sana":
        import inspect

        default = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
        theirs, their_mask, empty, _ = pipeline.encode_prompt(LENGTHS, negative_prompt="", complex_human_instruction=default)
        assert torch.equal(mask, their_mask) and torch.equal(states, theirs)
        torch.testing.assert_close(model.empty_prompt()["prompt_embeds"], empty[:1])
        return
    if kind == "qwen_image":
        theirs, their_mask = pipeline.encode_prompt(LENGTHS, max_sequence_length=512)
        theirs = [row[keep.bool()] for row, keep in zip(theirs, their_mask, strict=True)]
    else:
        theirs, _ = pipeline.encode_prompt(list(LENGTHS), do_classifier_free_guidance=False)
    assert mask.sum(1).tolist() == [len(row) for row in theirs] and mask[2].all()
    for ours, length, row in zip(states, mask.sum(1), theirs, strict=True):
        torch.testing.assert_close(ours[:length], row)  # Qwen-Image's is cut before the encoder here, after it there
        assert not ours[length:].any()


@pytest.mark.parametrize("kind", ["qwen_image", "z_image", "sana", "lumina2"])
def test_a_prediction_does_not_depend_on_the_padding(kind, folders):
    """Not on the other prompts of the batch, nor on how long a prompt may be."""
    model, short = load_model(folders(kind)), load_model(folders(kind), max_sequence_length=220)
    x_t, t, conditioning = inputs(model, prompts=["a circle", "a large red circle above a small blue square"])
    together = model.predict(x_t, t, conditioning)
    for i in range(2):
        alone = model.predict(x_t[i : i + 1], t[i : i + 1], {name: value[i : i + 1] for name, value in conditioning.items()})
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)
    other = inputs(short, prompts=["a circle", "a large red circle above a small blue square"])[2]
    assert {value.shape[1] for value in other.values()} == {220} and short.provenance() != model.provenance()
    torch.testing.assert_close(short.predict(x_t, t, other), together, rtol=1e-4, atol=1e-5)
    changed = {**conditioning, model.conditioning_keys[0]: conditioning[model.conditioning_keys[0]].flip(0)}
    assert (model.predict(x_t, t, changed) - together).abs().max() > 1e-3, "the text must matter"


@pytest.mark.parametrize("kind", ["sd3.5", "flux", "pixart_sigma", "qwen_image", "z_image", "sana"])
def test_half_precision(kind, folders):
    model = load_model(folders(kind), dtype=torch.bfloat16)
    assert model.predict(*inputs(model)).dtype == torch.bfloat16
    assert {encoder.dtype for encoder in model.text_encoders.values()} == {torch.bfloat16}
    assert {value.dtype for value in model.encode_prompts(["a circle"]).values()} <= {torch.bfloat16, torch.int64}
    assert np.isfinite(draw(model.pipeline(), kind)).all()
