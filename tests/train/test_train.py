"""The loop on real tiny models: what moves, what the first loss is, how micro-batches add up, what is written."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffalign import models
from diffalign.train.setup import accelerated, build
from diffalign.train.step import preference_step
from tests.tiny import to_single_file
from tests.train.runs import config, metrics, result, run, steps_of, write_pairs

LN2 = 0.6931471805599453
KINDS = ("sd15", "sd21", "sd21-zero-snr", "sdxl")


@pytest.mark.parametrize(("kind", "mode", "source"), [
    *((kind, "lora", "folder") for kind in KINDS),
    *((kind, "full", "folder") for kind in ("sd15", "sd21", "sdxl")),
    ("sd15", "full", "file"), ("sd21", "lora", "file"), ("sdxl", "lora", "file"), ("sdxl", "full", "file"),
])  # fmt: skip
def test_every_parameter_moves_and_the_first_loss_is_ln_2(kind, mode, source, folders, pairs, tmp_path):
    model, extra = folders(kind), {}
    if source == "file":
        model, extra = to_single_file(folders(kind), tmp_path / "model.safetensors"), {"model_config": folders(kind)}
    changes = {"train": mode, **extra}
    before = build(config(model, pairs, tmp_path / "before", **changes), torch.device("cpu"), quiet=True).trainable
    summary = run(model, pairs, tmp_path / "run", **changes)
    after = load_file(tmp_path / "run" / "checkpoint-00000003" / "trainable.safetensors")
    assert set(after) == set(before) and len(after) > 100
    assert [name for name in after if torch.equal(after[name], before[name])] == []
    assert summary["step0"]["measured"] == summary["step0"]["expected"]
    assert summary["step0"]["measured"] == pytest.approx(LN2 * mean_weight_of_the_first_step(pairs), rel=1e-6)
    assert sums(result(summary)) == sums(after), "what is saved is what was trained"


def sums(tensors) -> list[float]:
    """Of all tensors, whatever their names."""
    return sorted(tensor.double().sum().item() for tensor in tensors.values())


def mean_weight_of_the_first_step(pairs) -> float:
    first = steps_of(pairs, 2)[0]
    return sum(pair.weight for pair in first) / len(first)


@pytest.mark.parametrize(("mode", "reference"), [("lora", "base"), ("lora", "ema"), ("full", "ema")])
def test_the_first_loss_with_other_references(mode, reference, folders, pairs, tmp_path):
    summary = run(folders("sd15"), pairs, tmp_path, train=mode, reference=reference, max_train_steps=1)
    assert summary["step0"]["measured"] == summary["step0"]["expected"] > LN2


def test_the_first_loss_of_soft_labels_and_margins(folders, tmp_path):
    """z = -margin, so a pair of probability p costs -p log sigma(-m) - (1 - p) log sigma(m).

    p = 0.8, m = 0: ln 2 = 0.693147.  p = 1, m = 2: ln(1 + e^2) = 2.126928.  Weights 1 and 3: (0.693147 + 3 * 2.126928) / 2 = 3.536966.
    """
    pairs = write_pairs(tmp_path / "pairs", 2, weight=[1.0, 3.0], probability=[0.8, 1.0], margin=[0.0, 2.0])
    summary = run(folders("sd15"), pairs, tmp_path / "run", max_train_steps=1)
    assert summary["step0"]["measured"] == summary["step0"]["expected"] == pytest.approx(3.536966, abs=2e-6)


def test_accumulation_is_exact(folders, tmp_path):
    """4 x 1 = 2 x 2 = 1 x 4 over two epochs of 8 pairs whose weights differ.

    beta 1 and an epsilon of 1 make the step proportional to the gradient: at beta 5000 the last bit of an error is 1e-4 of a margin, and
    Adam would blow rounding up to whole steps, so that equality could only be asked for loosely.
    """
    pairs = write_pairs(tmp_path / "pairs", 8)
    start = build(config(folders("sdxl"), pairs, tmp_path / "start"), torch.device("cpu"), quiet=True).trainable
    found = {}
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        folder = tmp_path / f"{batch}x{accumulation}"
        run(
            folders("sdxl"), pairs, folder, train_batch_size=batch, gradient_accumulation_steps=accumulation, max_train_steps=4,
            caption_dropout=0.5, flip=True, beta=1.0, adam_epsilon=1.0, learning_rate=100.0,
        )  # fmt: skip
        found[batch] = load_file(folder / "checkpoint-00000004" / "trainable.safetensors"), metrics(folder)
    weights, lines = found[4]
    moved = norm(tensor - start[name] for name, tensor in weights.items())
    assert moved > 1
    for other_weights, other_lines in (found[2], found[1]):
        assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in other_lines], rel=1e-6)
        assert [line["grad_norm"] for line in lines] == pytest.approx([line["grad_norm"] for line in other_lines], rel=2e-4)
        assert norm(tensor - other_weights[name] for name, tensor in weights.items()) < 2e-4 * moved


def norm(tensors) -> float:
    return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5


def test_the_denominator_counts_the_pairs_of_the_whole_step(folders, tmp_path):
    """Three pairs in batches of 2: a step of two batches has 3 pairs, and its gradient is that of the 3 in one batch."""
    pairs = write_pairs(tmp_path / "pairs", 3)
    norms = [
        run(folders("sd15"), pairs, tmp_path / f"{b}", train_batch_size=b, gradient_accumulation_steps=a, max_train_steps=1) and
        metrics(tmp_path / f"{b}")[0]["grad_norm"]
        for b, a in ((3, 1), (2, 2))
    ]  # fmt: skip
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_bf16_trains_float32_adapters(folders, pairs, tmp_path):
    """... and draws in bfloat16; and a float32 run after it, in the same process, gets the precision it asks for (accelerate's state is the
    process's)."""
    images = {"num_validation_images": 1, "validation_inference_steps": 1, "validation_steps": 3}
    summary = run(folders("sdxl"), pairs, tmp_path / "bf16", mixed_precision="bf16", **images)
    assert (tmp_path / "bf16" / "samples" / "step_000003" / "00.png").exists()
    assert {tensor.dtype for tensor in result(summary).values()} == {torch.float32}
    losses = [row["loss"] for row in metrics(tmp_path / "bf16")]
    assert len(losses) == 3 and all(0 < loss < 100 for loss in losses)
    plain = run(folders("sdxl"), pairs, tmp_path / "no")
    assert [row["loss"] for row in metrics(tmp_path / "no")][1:] != losses[1:]
    assert plain["step0"] == summary["step0"]
    with accelerated(config(folders("sdxl"), pairs, tmp_path / "x", mixed_precision="bf16")) as accelerator:
        assert accelerator.mixed_precision == "bf16"


def test_checkpointing_gives_the_same_gradients(folders, pairs, tmp_path):
    gradients = {}
    for on in (False, True):
        parts = build(config(folders("sdxl"), pairs, tmp_path, gradient_checkpointing=on), torch.device("cpu"), quiet=True)
        assert parts.model.denoiser.is_gradient_checkpointing == on
        with torch.no_grad():
            for parameter in parts.trainable.values():
                parameter.add_(0.01)  # away from B = 0, where A has no gradient
        out = preference_step(parts.model, parts.reference, parts.objective, parts.noising, parts.maker([0, 1], draw=0))
        out.terms.loss.sum().backward()
        gradients[on] = {name: parameter.grad for name, parameter in parts.trainable.items()}
    assert all(gradient.abs().max() > 0 for gradient in gradients[True].values())
    for name, gradient in gradients[False].items():
        assert torch.equal(gradient, gradients[True][name]), name


def test_adafactor(folders, pairs, tmp_path):
    summary = run(folders("sd15"), pairs, tmp_path, train="full", optimizer="adafactor", max_train_steps=2)
    before = load_file(f"{folders('sd15')}/unet/diffusion_pytorch_model.safetensors")
    assert not any(torch.equal(tensor, before[name]) for name, tensor in result(summary).items())


def test_buckets_of_several_shapes(folders, tmp_path):
    """Wide and tall pairs: batches, training and held-out, are of one shape each."""
    pairs = write_pairs(tmp_path / "pairs", 8)
    for i in (1, 2, 5, 6):
        for side in ("chosen", "rejected"):
            file = pairs / side / f"{i:03d}.png"
            Image.open(file).resize((32, 16)).save(file)
    summary = run(
        folders("sdxl"), pairs, tmp_path / "run", aspect_ratio_buckets=True, resolution=128, held_out=0.5, held_out_draws=1,
        max_train_steps=2,
    )  # fmt: skip
    assert 0 <= summary["held_out/accuracies"] <= 1


@pytest.mark.parametrize("targets", ["to_q", "to_q, to_v"])
def test_lora_on_named_modules(targets, folders, pairs, tmp_path):
    summary = run(folders("sd15"), pairs, tmp_path, lora_targets=targets, max_train_steps=1)
    assert {name.split(".")[-3] for name in result(summary)} == set(targets.split(", "))


def test_tensorboard_gets_the_metrics(folders, pairs, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(folders("sd15"), pairs, tmp_path, report_to="tensorboard")
    (file,) = (tmp_path / "logs").rglob("events.out.tfevents.*")
    events = event_accumulator.EventAccumulator(str(file))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    assert logged == [(row["step"], pytest.approx(row["loss"])) for row in metrics(tmp_path)]


def test_the_card(folders, pairs, tmp_path):
    run(folders("sdxl"), pairs, tmp_path, held_out=0.5, max_train_steps=1, held_out_draws=1)
    text, summary = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "summary.json").read_text())
    for part in (
        "Diffusion-DPO of", "-log sigmoid(-beta/2", "arXiv:2311.12908, eq. 14", "data: 8 read, 8 kept", "LoRA of rank 2 on attention",
        "dpo with beta = 5000: -p log sigma(z)", "l is a mean-over-latent squared error, evidence -l/2", "No warnings.",
        f"held-out preference accuracy: {summary['held_out/accuracies']:.3f}",
    ):  # fmt: skip
        assert part in text
    snippet = text.split("```python\n")[1].split("```")[0]
    scope = {}
    exec(snippet, scope)
    assert scope["pipeline"].get_active_adapters() == ["default_0"]


def test_the_objective_and_reference_of_the_run_are_used(folders, pairs, tmp_path):
    """ipo starts at (1 / (2 beta))^2 = 1/16 for beta 2."""
    summary = run(folders("sd15"), pairs, tmp_path, objective="ipo", beta=2.0, max_train_steps=1)
    assert summary["step0"]["measured"] == pytest.approx(mean_weight_of_the_first_step(pairs) / 16, rel=1e-5)


def test_model_weights_outside_the_adapter_stay(folders, pairs, tmp_path):
    """The base of a LoRA run is frozen: nothing but adapter tensors is trained or saved."""
    parts = build(config(folders("sd15"), pairs, tmp_path), torch.device("cpu"), quiet=True)
    assert {name.split(".")[-3] for name in parts.trainable} == {"lora_A", "lora_B"}
    assert models.lora.adapter_names(parts.model.denoiser) == ["default"]
