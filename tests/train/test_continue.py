"""Training that goes on from an adapter, and the references that come with it."""

import pytest
import torch
from safetensors.torch import load_file

from diffalign.train import ConfigError
from diffalign.train.problems import checked
from diffalign.train.setup import build
from tests.train.runs import config, metrics, result, run


@pytest.fixture(scope="module")
def first(folders, pairs, tmp_path_factory):
    """A finished run: rank 3 with alpha 6 on attention and feed-forward."""
    return run(folders("sd15"), pairs, tmp_path_factory.mktemp("first") / "run", lora_rank=3, lora_alpha=6.0,
               lora_targets="attention+ff", learning_rate=1e-2)["result"]  # fmt: skip


def test_it_starts_where_the_adapter_ended_with_that_as_its_start(first, folders, pairs, tmp_path):
    """A step of 1e-12 leaves the file as it was: rank, alpha, layers and values are the adapter's own."""
    summary = run(folders("sd15"), pairs, tmp_path / "run", init_lora=first, max_train_steps=1, learning_rate=1e-12)
    before, after = load_file(f"{first}/pytorch_lora_weights.safetensors"), result(summary)
    assert before.keys() == after.keys() and all((before[name] - after[name]).abs().max() < 1e-9 for name in before)
    assert summary["step0"]["measured"] == pytest.approx(summary["step0"]["expected"], rel=1e-5)
    (note,) = [note for note in summary["notes"] if note.startswith("adapter:")]
    assert f"continues {first} (rank 3, alpha 6;" in note and "Reference start is that adapter as it was" in note
    assert "reference: start: a frozen copy of the adapter that training continues" in summary["notes"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"trained: the LoRA of {first}, continued" in card and f"adapter: continues {first}" in card


def test_start_base_and_past_are_three_references(first, folders, pairs, tmp_path):
    other = run(folders("sd15"), pairs, tmp_path / "other", learning_rate=3e-2, seed=3)["result"]
    losses = {}
    for name, settings in {"start": {}, "base": {"reference": "base"}, "past": {"reference": "past", "reference_lora": other},
                           "same": {"reference": "past", "reference_lora": first}}.items():  # fmt: skip
        summary = run(folders("sd15"), pairs, tmp_path / name, init_lora=first, beta=50.0, max_train_steps=1, **settings)
        losses[name] = metrics(tmp_path / name)[0]["loss"]
        assert (summary["step0"] is None) == (name != "start")
    assert losses["start"] == pytest.approx(losses["same"], rel=1e-6), "the same adapter, from memory and from its file"
    assert len({round(losses[name], 5) for name in ("start", "base", "past")}) == 3


def test_an_interrupted_run_with_a_past_reference_goes_on_to_the_same_bits(first, folders, pairs, tmp_path):
    """... though the file of the reference has changed meanwhile: what was compared with is in the checkpoint."""
    import shutil

    other = shutil.copytree(first, tmp_path / "other")
    settings = {"reference": "past", "reference_lora": str(other), "beta": 50.0, "max_train_steps": 3, "checkpointing_steps": 1}
    whole = run(folders("sd15"), pairs, tmp_path / "whole", **settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for gone in ("checkpoint-00000003", "lora"):
        shutil.rmtree(tmp_path / "cut" / gone)
    (tmp_path / "cut" / "summary.json").unlink()
    file = other / "pytorch_lora_weights.safetensors"
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as stored:
        facts, tensors = stored.metadata(), {name: 2 * stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    save_file(tensors, file, metadata=facts)
    again = run(folders("sd15"), pairs, tmp_path / "cut", **settings)
    first_bits, second_bits = result(whole), result(again)
    assert all(torch.equal(first_bits[name], second_bits[name]) for name in first_bits)


def test_the_held_out_changes_are_told_against_the_base_where_the_reference_is_past(first, folders, pairs, tmp_path):
    parts = build(config(folders("sd15"), pairs, tmp_path, init_lora=first, reference="past", reference_lora=first),
                  torch.device("cpu"), quiet=True)  # fmt: skip
    assert (parts.reference.kind, parts.baseline.kind) == ("past", "base")


def test_families_whose_adapters_are_pefts_go_on_too(folders, pairs, tmp_path):
    first = run(folders("pixart_sigma"), pairs, tmp_path / "a", max_train_steps=1)["result"]
    summary = run(folders("pixart_sigma"), pairs, tmp_path / "b", max_train_steps=1, init_lora=first)
    assert summary["step0"]["measured"] == pytest.approx(summary["step0"]["expected"], rel=1e-5)


@pytest.mark.parametrize(("changes", "message"), [
    ({"train": "full", "init_lora": "x"}, "train is 'full', and init_lora and reference past are about adapters"),
    ({"reference": "past"}, "reference is 'past' and reference_lora is None: name the adapter with reference_lora"),
    ({"reference_lora": "x"}, "reference is 'start' and reference_lora is 'x': drop it, or use reference past"),
    ({"train": "full", "reference": "past", "reference_lora": "x"}, "merge them into the model"),
])  # fmt: skip
def test_refusals(changes, message):
    with pytest.raises(ConfigError, match=message):
        checked(config("model", "data", "out", **changes))


def test_an_adapter_that_is_not_there(folders, pairs, tmp_path):
    with pytest.raises(ValueError, match="no adapter at"):
        run(folders("sd15"), pairs, tmp_path / "run", init_lora=str(tmp_path / "none"))
