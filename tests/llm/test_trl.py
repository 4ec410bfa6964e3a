"""Ten steps beside TRL's own trainer: the same tiny model, pairs and settings give the same losses. Where TRL computes something else than
a row of ours, it has no line here (docs/text.md says what)."""

import json

import pytest
import torch

from diffalign.llm.command import TextConfig, train
from tests.llm import tiny

trl = pytest.importorskip("trl", reason="trl is not installed")

STEPS = 10
ROWS = {  # what it is called here -> (TRL's loss_type, its options, our row, its options)
    "sigmoid": ("sigmoid", {}, "dpo", {}),
    "hinge": ("hinge", {}, "hinge", {}),
    "ipo": ("ipo", {}, "ipo-mean", {}),
    "exo_pair": ("exo_pair", {"label_smoothing": 0.05}, "exo", {"label_smoothing": 0.05}),
    "nca_pair": ("nca_pair", {}, "nca", {}),
    "robust": ("robust", {"label_smoothing": 0.2}, "robust-dpo", {"label_smoothing": 0.2}),
    "bco_pair": ("bco_pair", {}, "bco-pair", {}),
    "sppo_hard": ("sppo_hard", {}, "sppo-hard", {}),
    "aot": ("aot", {"label_smoothing": 0.1}, "aot", {"label_smoothing": 0.1}),
    "aot_unpaired": ("aot_unpaired", {"label_smoothing": 0.1}, "aot-unpaired", {"label_smoothing": 0.1}),
    "apo_zero": ("apo_zero", {}, "apo-zero", {}),
    "apo_down": ("apo_down", {}, "apo-down", {}),
    "discopop": ("discopop", {"discopop_tau": 0.1}, "discopop", {"tau": 0.1}),
    "sft": ("sft", {}, "sft-trl", {}),
    "sigmoid_norm": ("sigmoid_norm", {}, "sigmoid-norm", {}),
    "ld_alpha": ("sigmoid", {"ld_alpha": 0.3}, "ld-dpo", {"alpha": 0.3}),
    "use_weighting": ("sigmoid", {"use_weighting": True}, "wpo-trl", {}),
    "forward_kl": ("sigmoid", {"f_divergence_type": "forward_kl"}, "f-dpo-forward-kl", {}),
    "js_divergence": ("sigmoid", {"f_divergence_type": "js_divergence"}, "f-dpo-js", {}),
    "alpha_divergence": (
        "sigmoid", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}, "f-dpo-alpha", {"alpha": 0.3},
    ),
    "rpo": (["sigmoid", "sft"], {"loss_weights": [1.0, 0.5]}, "dpo-sft-trl", {"nll_weight": 0.5}),
}  # fmt: skip
CHAT_ROWS = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}], "rejected": [{"role": "assistant", "content": row["rejected"]}],
    }
    for row in tiny.rows(4)
]  # fmt: skip


def losses_of_trl(folder, rows, output, trainer="DPO", **options) -> list[float]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = []

    class Recording(getattr(trl, f"{trainer}Trainer")):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            found.append(float(loss.detach()))
            return loss

    args = getattr(trl, f"{trainer}Config")(
        output_dir=str(output), per_device_train_batch_size=len(rows), max_steps=STEPS, learning_rate=2e-3, beta=0.1,
        lr_scheduler_type="constant", weight_decay=0.0, bf16=False, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        gradient_checkpointing=False, **options,
    )  # fmt: skip
    Recording(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), args=args, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    ).train()  # fmt: skip
    return found


NO_BETA = {"sft-trl": {"beta": None}}


def losses_of_ours(folder, rows, output, objective, options, **changes) -> list[float]:
    data = tiny.write(output.with_suffix(".jsonl"), rows)
    train(
        TextConfig(
            model=str(folder), data=str(data), output_dir=str(output), train="full", objective=objective, **{"beta": 0.1, **changes},
            objective_options=options, learning_rate=2e-3, lr_scheduler="constant", adam_weight_decay=0.0, train_batch_size=len(rows),
            max_train_steps=STEPS, held_out=0.0, num_validation_samples=0, logging_steps=1, checkpointing_steps=STEPS, device="cpu",
        ), quiet=True,
    )  # fmt: skip
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ROWS)
def test_ten_losses_are_trls(name, folder, tmp_path):
    loss_type, theirs, row, ours = ROWS[name]
    rows = tiny.rows(4)
    expected = losses_of_trl(folder, rows, tmp_path / "trl", loss_type=loss_type, **theirs)
    found = losses_of_ours(folder, rows, tmp_path / "ours", row, ours, **NO_BETA.get(row, {}))
    assert len(found) == STEPS and found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert max(expected) - min(expected) > 1e-2  # something was learned, so that the steps were compared and not only the start


@pytest.mark.parametrize("changes", [{}, {"precompute_ref_log_probs": True}])
def test_chats_are_written_and_trained_as_trl_does(changes, folder, tmp_path):
    expected = losses_of_trl(folder, CHAT_ROWS, tmp_path / "trl")
    assert losses_of_ours(folder, CHAT_ROWS, tmp_path / "ours", "dpo", {}, **changes) == pytest.approx(expected, rel=0, abs=1e-5)


def test_a_long_response_is_cut_as_trl_does(folder, tmp_path):
    expected = losses_of_trl(folder, tiny.rows(4), tmp_path / "trl", max_length=9)
    found = losses_of_ours(folder, tiny.rows(4), tmp_path / "ours", "dpo", {}, max_length=9, truncation="keep_start")
    assert found == pytest.approx(expected, rel=0, abs=1e-5)


@pytest.mark.parametrize("loss_type, row", [("kto", "kto-mismatched"), ("apo_zero_unpaired", "apo-zero-unpaired")])
def test_labels_are_trained_as_trl_does(loss_type, row, folder, tmp_path):
    """Two records: which of a batch's responses goes after which prompt does not depend on the order then."""
    rows = [{"prompt": r["prompt"], "completion": r["chosen"], "label": i == 0} for i, r in enumerate(tiny.rows(4)[1:3])]
    expected = losses_of_trl(folder, rows, tmp_path / "trl", trainer="KTO", loss_type=loss_type)
    assert losses_of_ours(folder, rows, tmp_path / "ours", row, {}) == pytest.approx(expected, rel=1e-5, abs=1e-5)
