"""Negative guidance against both branches written out, in the stock pipelines' own calls on tiny real models."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLImg2ImgPipeline
from PIL import Image

from diffalign.models import load_model, lora
from diffalign.pipelines.negative import negative_guidance
from tests.models.shared import PROMPTS, jolt

STEPS, SCALE = 3, 4.0


@pytest.fixture(scope="module")
def adapters(folders, tmp_path_factory):
    """kind -> (folder of an aligned adapter, folder of a negative one), of different ranks, layers and alphas."""
    made = {}

    def adapter(kind: str) -> tuple[str, str]:
        if kind not in made:
            root = tmp_path_factory.mktemp(kind)
            for name, seed, settings in (("aligned", 1, {"rank": 2}), ("npo", 2, {"rank": 3, "alpha": 6, "targets": "attention+ff"})):
                model = load_model(folders(kind))
                lora.add(model.denoiser, seed=seed, **settings)
                jolt(model.denoiser, seed=seed, size=0.1)
                lora.save(model, root / name)
            made[kind] = str(root / "aligned"), str(root / "npo")
        return made[kind]

    return adapter


def network(folder: str, weights: dict[str, float]):
    """The model with adapters merged into its weights: nothing of peft's switching is left to agree by accident."""
    model = load_model(folder)
    for i, path in enumerate(weights):
        lora.load(model.denoiser, path, name=f"a{i}", trainable=False)
    if weights:
        model.denoiser.set_adapters([f"a{i}" for i in range(len(weights))], list(weights.values()))
        model.denoiser.fuse_lora()
        model.denoiser.unload_lora()
    return model


@torch.no_grad()
def written_out(folder: str, positive: dict, negative: dict, prompts: list[str], noise: torch.Tensor, scale: float) -> torch.Tensor:
    """Latents after STEPS steps of f_neg(empty) + w (f_pos(prompt) - f_neg(empty)), each branch a network of its own."""
    good, bad = network(folder, positive), network(folder, negative)
    n = len(prompts)
    sizes = torch.tensor([[16, 16]] * n)
    geometry = good.size_conditioning(sizes, torch.zeros(n, 2), sizes)
    asked = good.encode_prompts(prompts) | geometry
    empty = {name: state.expand(n, *state.shape[1:]) for name, state in good.empty_prompt().items()} | geometry
    scheduler = type(good.scheduler).from_config(good.scheduler.config)
    scheduler.set_timesteps(STEPS)
    continuous = good.path.continuous
    x = noise if continuous else noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        seen = x if continuous else scheduler.scale_model_input(x, t)
        times = t.expand(n)
        conditional = good.call(good.denoiser, seen, times, asked)
        unconditional = bad.call(bad.denoiser, seen, times, empty)
        x = scheduler.step(unconditional + scale * (conditional - unconditional), t, x, return_dict=False)[0]
    return x


def noise_for(pipeline_folder: str, count: int) -> torch.Tensor:
    shape = load_model(pipeline_folder).latent_shape(16, 16)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(7))


def draw(pipeline, noise, prompts=PROMPTS, scale=SCALE, **more) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(prompts, height=16, width=16, num_inference_steps=STEPS, guidance_scale=scale, latents=noise.clone(),
                    output_type="latent", **more).images  # fmt: skip


def stock(folder: str, aligned: str | None = None):
    absent = {"text_encoder_3": None, "tokenizer_3": None} if folder.endswith("/sd3") else {}
    pipeline = DiffusionPipeline.from_pretrained(folder, **absent)
    if aligned:
        pipeline.load_lora_weights(aligned)
    return pipeline


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3.5"])
def test_both_branches_written_out(kind, folders, adapters):
    folder, (aligned, npo), noise = folders(kind), adapters(kind), noise_for(folders(kind), 2)
    pipeline = stock(folder)
    cases = [({"aligned": aligned}, {aligned: 1.0}, {aligned: 1.0, npo: 1.0}), ({}, {}, {npo: 1.0})]
    if kind == "sd15":
        cases += [({"aligned": aligned, "merge_weight": 0.25}, {aligned: 1.0}, {aligned: 0.75, npo: 1.0}),
                  ({"aligned": aligned, "merge_weight": 1.0}, {aligned: 1.0}, {npo: 1.0})]  # fmt: skip
    found = []
    for settings, positive, negative in cases:
        with negative_guidance(pipeline, npo, **settings):
            found.append(draw(pipeline, noise))
        expected = written_out(folder, positive, negative, PROMPTS, noise, SCALE)
        torch.testing.assert_close(found[-1], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    stocks = [draw(stock(folder), noise), draw(stock(folder, aligned), noise)]
    distinct = [*found, *stocks]
    assert min((a - b).abs().max() for i, a in enumerate(distinct) for b in distinct[:i]) > 1e-2


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_a_negative_that_is_the_positive_is_stock_guidance(kind, folders, adapters):
    folder, (aligned, _), noise = folders(kind), adapters(kind), noise_for(folders(kind), 2)
    expected = draw(stock(folder, aligned), noise)
    pipeline = stock(folder)
    with negative_guidance(pipeline, aligned, aligned=aligned, merge_weight=1.0):
        found = draw(pipeline, noise)
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_without_guidance_it_is_the_positive_model(kind, folders, adapters):
    folder, (aligned, npo), noise = folders(kind), adapters(kind), noise_for(folders(kind), 2)
    pipeline = stock(folder)
    with negative_guidance(pipeline, npo, aligned=aligned):
        assert torch.equal(draw(pipeline, noise, scale=1.0), draw(stock(folder, aligned), noise, scale=1.0))
        assert (draw(pipeline, noise, scale=1.001) - draw(pipeline, noise, scale=1.0)).abs().max() < 0.1
    with negative_guidance(pipeline, npo):
        assert torch.equal(draw(pipeline, noise, scale=1.0), draw(stock(folder), noise, scale=1.0))


def test_afterwards_the_pipeline_is_as_it_was(folders, adapters):
    folder, (aligned, npo), noise = folders("sdxl"), adapters("sdxl"), noise_for(folders("sdxl"), 2)
    pipeline = stock(folder)
    before, names = draw(pipeline, noise), set(pipeline.unet.state_dict())
    guided = negative_guidance(pipeline, npo, aligned=aligned)
    during = draw(pipeline, noise)
    guided.remove()
    guided.remove()
    assert torch.equal(draw(pipeline, noise), before) and (during - before).abs().max() > 0.1
    assert lora.adapter_names(pipeline.unet) == [] and {n.replace(".base_layer", "") for n in pipeline.unet.state_dict()} == names


def test_adapters_that_the_pipeline_has_go_by_name_and_come_back(folders, adapters):
    """The user's own weights of adapters are put back; while guiding each counts once."""
    folder, (aligned, npo), noise = folders("sdxl"), adapters("sdxl"), noise_for(folders("sdxl"), 2)
    pipeline = stock(folder)
    with negative_guidance(pipeline, npo, aligned=aligned):
        expected = draw(pipeline, noise)
    pipeline.load_lora_weights(aligned, adapter_name="dpo")
    pipeline.load_lora_weights(npo, adapter_name="npo")
    pipeline.set_adapters(["dpo"], [0.5])
    before = draw(pipeline, noise)
    with negative_guidance(pipeline, "npo", aligned="dpo"):
        torch.testing.assert_close(draw(pipeline, noise), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(draw(pipeline, noise), before) and pipeline.get_active_adapters() == ["dpo"]


def test_several_images_a_prompt_and_a_negative_prompt(folders, adapters):
    folder, (aligned, npo) = folders("sdxl"), adapters("sdxl")
    pipeline, noise = stock(folder), noise_for(folder, 4)
    with negative_guidance(pipeline, npo, aligned=aligned):
        four = draw(pipeline, noise, num_images_per_prompt=2)
        alone = draw(pipeline, noise[2:3], PROMPTS[1])
        worded = draw(pipeline, noise, negative_prompt=["a blue square"] * 2, num_images_per_prompt=2)
    torch.testing.assert_close(four[2:3], alone, rtol=1e-4, atol=1e-4)
    assert (worded - four).abs().max() > 1e-3


def test_image_to_image(folders, adapters):
    folder, (aligned, npo) = folders("sdxl"), adapters("sdxl")
    pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))

    def run():
        generator = torch.Generator().manual_seed(0)
        return pipeline(PROMPTS[0], image=picture, strength=0.7, num_inference_steps=4, generator=generator, output_type="pt").images

    plain = run()
    with negative_guidance(pipeline, npo, aligned=aligned):
        assert (run() - plain).abs().max() > 1e-3
    assert torch.equal(run(), plain)


def test_skip_layers_ask_the_positive_model(folders, adapters):
    """SD3's skip-layer call has one row an image; with a negative that is the positive it must be stock's."""
    folder, (aligned, _), noise = folders("sd3"), adapters("sd3"), noise_for(folders("sd3"), 2)
    skip = {"skip_guidance_layers": [0], "skip_layer_guidance_start": -0.1, "skip_layer_guidance_stop": 1.0}
    expected = draw(stock(folder, aligned), noise, **skip)
    pipeline = stock(folder)
    with negative_guidance(pipeline, aligned, aligned=aligned, merge_weight=1.0):
        found = draw(pipeline, noise, **skip)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (expected - draw(stock(folder, aligned), noise)).abs().max() > 1e-3


def test_refusals(folders, adapters, tmp_path):
    aligned, npo = adapters("sd15")
    pipeline = stock(folders("sd15"))
    refused = [
        ({"negative": str(tmp_path / "none")}, "negative is .* no file or folder, and no adapter of the pipeline"),
        ({"negative": npo, "aligned": "dpo"}, "aligned is 'dpo', which is no file or folder"),
        ({"negative": npo, "merge_weight": 0.5}, "there is no aligned adapter to leave out"),
        ({"negative": npo, "aligned": aligned, "merge_weight": 1.5}, r"merge_weight is 1.5; .* in \[0, 1\]"),
        ({"negative": str(tmp_path)}, "no adapter at"),
    ]
    for arguments, message in refused:
        with pytest.raises(ValueError, match=message):
            negative_guidance(pipeline, **arguments)
        assert lora.adapter_names(pipeline.unet) == [] and "forward" not in vars(pipeline.unet)
    with negative_guidance(pipeline, npo), pytest.raises(ValueError, match="guided already"):
        negative_guidance(pipeline, npo)
    pipeline.load_lora_weights(aligned, adapter_name="mine")
    with pytest.raises(ValueError, match=r"active adapters \(mine\): name one as aligned="):
        negative_guidance(pipeline, npo)
    with pytest.raises(ValueError, match="a FluxPipeline does not guide by one call on a doubled batch"):
        negative_guidance(DiffusionPipeline.from_pretrained(folders("flux")), npo)
