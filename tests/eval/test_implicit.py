"""Implicit rewards of finished runs: the trainer's own held-out numbers, and what the arrays behind them say."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffalign import data
from diffalign.eval.diagnostics.implicit import of_adapter, of_run, pair_errors
from diffalign.eval.diagnostics.likelihoods import displacement, ranking
from diffalign.train.errors import ConfigError
from diffalign.train.setup import build
from tests.train.conftest import folders, pairs  # noqa: F401 - fixtures: tiny pipelines, and eight pairs
from tests.train.runs import config, metrics, run

LEARNS = {"held_out": 0.5, "held_out_draws": 3, "learning_rate": 3e-2, "beta": 50.0}


@pytest.fixture(scope="module")
def trained(folders, pairs, tmp_path_factory):  # noqa: F811
    """(summary, folder) of a run of three steps that held four pairs out."""
    folder = tmp_path_factory.mktemp("run")
    return run(folders("sd15"), pairs, folder, checkpointing_steps=1, checkpoints_total_limit=9, validation_steps=1, **LEARNS), folder


def test_it_is_what_the_trainer_logged(trained):
    """Accuracy, both changes and the mean rewards (times beta) of the last validation, from the saved adapter."""
    summary, folder = trained
    found = of_run(folder)
    assert found.policy.shape == (3, len(found.pairs), 2) and found.against.startswith("start: the base model")
    assert found.accuracy_by_draw().win_rate == pytest.approx(summary["held_out/accuracies"])
    change = (found.policy - found.reference).mean((0, 1))
    assert change == pytest.approx([summary["held_out/chosen_change"], summary["held_out/rejected_change"]], rel=1e-4)
    assert 50 * found.rewards.mean(0) == pytest.approx([summary["held_out/chosen"], summary["held_out/rejected"]], rel=1e-4)
    assert 0.0 not in change


def test_every_checkpoint_can_be_measured(trained):
    _, folder = trained
    logged = {row["step"]: row["held_out/chosen_change"] for row in metrics(folder) if "held_out/loss" in row}
    assert len(logged) == 3
    for step, change in logged.items():
        found = of_run(folder, checkpoint=folder / f"checkpoint-{step:08d}")
        assert (found.policy - found.reference)[..., 0].mean() == pytest.approx(change, rel=1e-4)


def test_the_diagnostics_read_it(trained):
    found = of_run(trained[1], draws=2)
    policy, reference = found.evidence()
    assert ranking(policy, reference, groups=found.groups).implicit.win_rate == found.accuracy().win_rate
    side = displacement(policy, reference, found.groups).chosen
    assert side.mean_difference == pytest.approx(found.rewards[:, 0].mean()) and side.n_prompts == len(set(found.groups))


def test_other_pairs_and_a_bare_adapter_are_measured_alike(trained, folders, pairs, tmp_path):  # noqa: F811
    """All eight pairs, by the run and by its adapter on the model: the same draws, so the same errors."""
    summary, folder = trained
    one = of_run(folder, pairs, cache_dir=str(tmp_path))
    model = str(folders("sd15"))
    other = of_adapter(model, summary["result"], pairs, draws=3, batch_size=2, beta=50.0)
    assert len(one.pairs) == len(data.read(pairs)[0]) and [p.id for p in one.pairs] == [p.id for p in other.pairs]
    assert one.policy == pytest.approx(other.policy, rel=1e-4) and one.reference == pytest.approx(other.reference, rel=1e-4)
    assert other.against.startswith("base: the base model") and (one.policy != one.reference).all()


@pytest.mark.parametrize(
    ("changes", "against"),
    [({"method": "mapo", "beta": None}, "base"), ({"reference": "ema"}, "base"), ({"train": "full"}, "start: a frozen copy")],
)
def test_whatever_was_trained(changes, against, folders, pairs, tmp_path):  # noqa: F811
    """Without a reference and with a moving one the base stands in for it; all weights are told against the copy they started from."""
    summary = run(folders("sd15"), pairs, tmp_path, max_train_steps=2, **{**LEARNS, "learning_rate": 1e-3, **changes})
    found = of_run(tmp_path)
    assert found.against.startswith(against)
    assert (found.policy - found.reference)[..., 0].mean() == pytest.approx(summary["held_out/chosen_change"], rel=1e-3)


def test_a_run_on_labels_is_measured_on_pairs(folders, pairs, tmp_path):  # noqa: F811
    run(folders("sd15"), pairs, tmp_path, method="diffusion-kto", max_train_steps=1, **{**LEARNS, "beta": None})
    found = of_run(tmp_path)
    assert all(isinstance(pair, data.Pair) for pair in found.pairs) and np.isfinite(found.rewards).all()


def test_nothing_of_the_run_changes(trained):
    _, folder = trained

    def state():
        return {str(p): p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file()}

    before = state()
    of_run(folder, draws=1)
    assert state() == before and json.loads((folder / "summary.json").read_text())["steps"] == 3


def test_refusals(folders, pairs, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        of_run(tmp_path)
    settings = config(folders("sd15"), pairs, tmp_path)
    (tmp_path / "config.yaml").write_text(settings.to_yaml())
    with pytest.raises(ValueError, match="held nothing out"):
        of_run(tmp_path)
    with pytest.raises(ValueError, match="has not ended"):
        of_run(tmp_path, pairs)
    (tmp_path / "config.yaml").write_text("modality: text\nmodel: builtin:sums\n")
    with pytest.raises(ConfigError, match="no run of a diffusion model"):
        of_run(tmp_path)
    parts = build(dataclasses.replace(settings, train="full", method="mapo"), torch.device("cpu"), quiet=True)
    with pytest.raises(ValueError, match="no log-ratio"):
        pair_errors(parts, parts.maker, [[0]], draws=1)
