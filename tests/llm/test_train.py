"""Runs on text from end to end: the loop's promises hold for language models too."""

import json

import pytest
import torch
from safetensors.torch import load_file

from diffalign.cli import main
from diffalign.llm.command import TEXT, TextConfig, train
from diffalign.llm.config import problems
from diffalign.llm.setup import build
from diffalign.train import ConfigError, TrainingError, checkpoint
from diffalign.train.command import resolve
from tests.llm import tiny


def config(folder, pairs, output, **changes) -> TextConfig:
    settings = {
        "max_train_steps": 3, "train_batch_size": 2, "learning_rate": 1e-2, "adam_weight_decay": 0.0, "held_out": 0.0, "logging_steps": 1,
        "num_validation_samples": 0, "lora_rank": 2, "device": "cpu",
    }  # fmt: skip
    return TextConfig(**{"model": str(folder), "data": str(pairs), "output_dir": str(output), **settings, **changes})


def losses(output) -> list[float]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def trained(summary, name="adapter_model"):
    from pathlib import Path

    return load_file(Path(summary["result"]) / f"{name}.safetensors")


def test_a_run_leaves_what_it_promises(folder, pairs, tmp_path):
    asked = {"held_out": 0.4, "num_validation_samples": 2, "validation_max_new_tokens": 3, "validation_steps": 3}
    summary = train(config(folder, pairs, tmp_path / "run", **asked), quiet=True)
    assert summary["step0"]["measured"] == pytest.approx(0.6931471805599453, abs=1e-6) and 0 <= summary["held_out/accuracies"] <= 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected_change", "grad_norm", "learning_rate"} <= set(rows[0])
    samples = (tmp_path / "run" / "samples" / "step_000003" / "samples.jsonl").read_text().splitlines()
    assert len(samples) == 2 and set(json.loads(samples[0])) == {"prompt", "response"}
    card = (tmp_path / "run" / "README.md").read_text()
    assert "library_name: peft" in card and "PeftModel.from_pretrained" in card and "Objective dpo with beta = 0.1" in card
    snippet = {}
    exec(card.split("```python\n")[1].split("```")[0], snippet)  # the card's code loads what was trained
    assert snippet["model"](input_ids=torch.tensor([[1, 8, 9]])).logits.shape == (1, 3, snippet["model"].config.vocab_size)


def test_full_training_is_saved_as_a_stock_model(folder, pairs, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    summary = train(config(folder, pairs, tmp_path / "run", train="full", learning_rate=1e-3), quiet=True)
    stock = AutoModelForCausalLM.from_pretrained(summary["result"])
    before = AutoModelForCausalLM.from_pretrained(folder)
    assert any(not torch.equal(a, b) for a, b in zip(stock.parameters(), before.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(summary["result"]).chat_template == tiny.CHAT


def test_a_killed_run_resumes_to_the_same_bits(folder, pairs, tmp_path):
    settings = {"max_train_steps": 4, "checkpointing_steps": 2, "held_out": 0.3}
    whole = train(config(folder, pairs, tmp_path / "whole", **settings), quiet=True)
    from diffalign.llm import setup

    class Killed(Exception):
        pass

    def dying(*args, **kwargs):
        parts = build(*args, **kwargs)
        measure, calls = parts.measure, []

        def measured(*arguments):
            calls.append(1)
            if len(calls) == 4:
                raise Killed
            return measure(*arguments)

        parts.measure = measured
        return parts

    from diffalign.train.loop import run

    other = config(folder, pairs, tmp_path / "killed", **settings)
    with pytest.raises(Killed):
        run(other.resolved(), dying, quiet=True)
    assert checkpoint.latest(tmp_path / "killed").name == "checkpoint-00000002" and setup.build is build
    resumed = train(other, quiet=True)
    one, two = trained(whole), trained(resumed)
    assert set(one) == set(two) and all(torch.equal(one[key], two[key]) for key in one)
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "killed" / "metrics.jsonl").read_text()


def test_the_ways_to_hold_a_reference_and_to_save_memory_give_the_same_losses(folder, pairs, tmp_path):
    plain = train(config(folder, pairs, tmp_path / "plain", train="full", learning_rate=1e-3), quiet=True)
    assert plain["steps"] == 3
    for name, changes in {
        "precomputed": {"precompute_ref_log_probs": True}, "chunks": {"logit_chunk": 2}, "checkpointing": {"gradient_checkpointing": True},
    }.items():  # fmt: skip
        train(config(folder, pairs, tmp_path / name, train="full", learning_rate=1e-3, **changes), quiet=True)
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "plain"), abs=1e-5), name


def test_micro_batches_add_up_to_the_batch(folder, pairs, tmp_path):
    settings = {"max_train_steps": 1, "max_pairs": 6, "group_by_length": False}
    train(config(folder, pairs, tmp_path / "one", train_batch_size=6, **settings), quiet=True)
    train(config(folder, pairs, tmp_path / "three", train_batch_size=2, gradient_accumulation_steps=3, **settings), quiet=True)
    one, three = ([json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()][0] for n in ("one", "three"))
    assert one["grad_norm"] == pytest.approx(three["grad_norm"], rel=1e-4) and abs(one["logps/chosen"] - three["logps/chosen"]) < 1e-3


ROWS = ["cdpo", "ipo-mean", "kto", "rankdpo", "ld-dpo", "wpo", "tdpo2", "orpo-trl", "kto-mismatched", "simpo"]


@pytest.mark.parametrize("objective", ROWS)
def test_rows_for_pairs_labels_and_rankings_train(objective, folder, pairs, tmp_path):
    summary = train(config(folder, pairs, tmp_path / "run", objective=objective, max_train_steps=2), quiet=True)
    assert summary["steps"] == 2 and any(tensor.any() for name, tensor in trained(summary).items() if "lora_B" in name)


def test_bf16(folder, pairs, tmp_path):
    summary = train(config(folder, pairs, tmp_path / "run", mixed_precision="bf16"), quiet=True)
    assert {tensor.dtype for tensor in trained(summary).values()} == {torch.float32}
    assert summary["step0"]["measured"] == pytest.approx(0.6931471805599453, abs=1e-6)


def test_the_command_line(folder, pairs, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(f"modality: text\nmodel: {folder}\ndata: {pairs}\nlearning_rate: 1e-3\nobjective_options: {{label_smoothing: 0.2}}\n")
    given, _ = resolve([str(file), "--objective", "cdpo", "--beta", "0.3"], TEXT)
    assert isinstance(given, TextConfig) and (given.learning_rate, given.beta, given.objective) == (1e-3, 0.3, "cdpo")
    assert main(["train", str(file), "--objective", "cdpo", "--dry-run"]) == 0
    written = capsys.readouterr().out
    assert "modality: text" in written and "reference: start" in written and "caption_dropout" not in written
    assert main(["train", "--modality", "text", "--model", str(folder), "--data", str(pairs), "--caption-dropout", "0.1"]) == 2
    assert main(["train", "--modality", "image", "--model", "m", "--data", "d", "--max-length", "3"]) == 2


@pytest.mark.parametrize("changes, words", [
    ({"model": ""}, "model is missing: a hub id, a transformers folder, or builtin:sums"),
    ({"objective": "dpoo"}, "unknown objective 'dpoo'; did you mean 'dpo'"),
    ({"objective": "dpo", "objective_options": {"alpha": 1.0}}, "unknown option of dpo 'alpha'"),
    ({"objective": "adpa"}, ". Give it as --objective-options gamma NUMBER"),
    ({"reference": "none"}, "reference is 'none', but the objective dpo compares with one"),
    ({"reference": "base", "train": "full"}, "reference is 'base', which means the adapter switched off"),
    ({"reference": "ema", "precompute_ref_log_probs": True}, "precompute_ref_log_probs needs weights that stay"),
    ({"objective": "dspo"}, "dspo: this objective reads cross, drift, which training on text does not measure"),
    ({"objective": "a2po"}, "this objective takes scores, and no data is read or converted to these (it gives pairs, labels, rankings)"),
    ({"truncation": "middle"}, "truncation is 'middle'; it must be one of error, keep_start, keep_end, drop"),
    ({"max_length": 0}, "max_length is 0; it must be positive"),
    ({"validation_temperature": -1.0}, "validation_temperature is -1.0; it must be at least 0"),
    ({"train_batch_size": 0}, "train_batch_size is 0; it must be at least 1"),
])  # fmt: skip
def test_what_is_wrong_with_the_values(changes, words):
    found = problems(TextConfig(**{"model": "m", "data": "d", **changes}))
    assert any(words in problem for problem in found), found


@pytest.mark.parametrize("changes, words", [
    ({"max_length": 100}, "max_length is 100, and .* was made for 64 tokens"),
    ({"max_length": 8}, r"pair-\d+ \('.*'\): \d+ tokens are more than max_length 8"),
    ({"max_length": 3, "truncation": "drop"}, "no record is left to train on: 12 read, 12 kept, 12 longer than max_length left out"),
    ({"chat_template": "/nowhere.jinja"}, "chat_template is '/nowhere.jinja', which cannot be read"),
    ({"lora_targets": "to_q"}, "has no layer called to_q"),
])  # fmt: skip
def test_what_is_wrong_with_model_and_data(changes, words, folder, pairs, tmp_path):
    with pytest.raises(ValueError, match=words):
        train(config(folder, pairs, tmp_path / "run", **changes), quiet=True)


def test_labels_cannot_be_made_pairs(folder, tmp_path):
    data = tiny.write(tmp_path / "labels.jsonl", [{"prompt": "a", "completion": "b", "label": True}])
    with pytest.raises(ConfigError, match="dpo: the method takes pairs and the data holds labels"):
        train(config(folder, data, tmp_path / "run"), quiet=True)


def test_a_gap_of_rewards_has_to_be_there(folder, pairs, tmp_path):
    with pytest.raises(ConfigError, match="^rebel regresses on the gap of two rewards and every pair has margin 0: give it as the column"):
        train(config(folder, pairs, tmp_path / "run", objective="rebel"), quiet=True)


def test_a_record_that_would_be_alone_in_its_batch_is_refused_where_others_are_needed(folder, tmp_path):
    """kto-mismatched takes the responses of a batch's other records: 12 labels in batches of 4 do, of 5, 11 or 1 they do not."""
    data = tiny.write(tmp_path / "labels.jsonl", [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0} for i, row in enumerate(tiny.rows(12))
    ])  # fmt: skip
    for size, alone in ((4, False), (5, False), (11, True), (1, True)):
        asked = config(folder, data, tmp_path / f"run{size}", objective="kto-mismatched", train_batch_size=size).resolved()
        if alone:
            with pytest.raises(ConfigError, match=f"12 records to train on in batches of {size} leave one alone: use another train_batch"):
                build(asked, torch.device("cpu"), quiet=True)
        else:
            parts = build(asked, torch.device("cpu"), quiet=True)
            assert all(len(batch) > 1 for epoch in range(3) for batch in parts.order.epoch(epoch))
    held_out = config(folder, data, tmp_path / "run", objective="kto-mismatched", train_batch_size=2, held_out=0.5, max_held_out_pairs=3)
    with pytest.raises(ConfigError, match="3 records to measure on in batches of 2 leave one alone: .*, or max_held_out_pairs 2"):
        train(held_out, quiet=True)


def test_weights_that_are_not_finite_stop_the_run(folder, pairs, tmp_path):
    with pytest.raises(TrainingError, match="is not finite|are not finite"):
        train(config(folder, pairs, tmp_path / "run", train="full", learning_rate=1e30, max_grad_norm=1e30), quiet=True)
