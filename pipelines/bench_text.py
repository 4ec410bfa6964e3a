"""Every objective that recorded pairs of answers serve, on the embedded language model, with the same tuning budget (``tuning``)."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffalign import objectives
from diffalign.eval.stats.intervals import prompt_sums, share_interval
from diffalign.llm import load_language_model
from diffalign.llm.command import train
from diffalign.pipelines import bench_page, tuning
from diffalign.pipelines.demo_text import TRAINING, answer, read, shuffle_labels, write
from diffalign.pipelines.tuning import Found, Settings, rates
from diffalign.train.validate import quiet_libraries
from diffalign.worlds import sums
from diffalign.worlds.sums import judge, problems

PAIRS = 16  # in a step; of single answers, twice as many
# Three settings each, around the demo's rate (1e-4) and TRL's beta (0.1), fixed before any row but dpo, dpo-sft and simpo was run.
BETA = 0.1  # of sums of log-probabilities
MEAN_BETA = 4.0  # of means over tokens: about 0.1 times the 42 tokens of an answer


def margins(beta: float) -> tuple[Settings, ...]:
    """Half the demo's rate, its rate, and that with margins which are large enough sooner."""
    return tuple({"learning_rate": rate, "beta": factor * beta} for rate, factor in ((5e-5, 1.0), (1e-4, 1.0), (1e-4, 5.0)))


LIKELIHOOD = (1e-4, 3e-4, 1e-3)  # rates of what also pulls the winner up: its beta stays, and it bears higher ones
ON_SUMS = (
    "dpo", "cdpo", "robust-dpo", "ipo", "hinge", "exo", "f-dpo-js", "f-dpo-forward-kl", "f-dpo-alpha", "discopop", "dpo-gamma",
    "dpo-conditional-reference", "dpop", "aot", "aot-unpaired", "wpo", "wpo-trl", "nca", "bco-pair", "apo-zero", "apo-down", "sppo-hard",
    "ld-dpo", "tdpo1", "tdpo2", "kto", "kto-mismatched", "apo-zero-unpaired", "bco", "bco-trl",
)  # fmt: skip
ON_MEANS = ("ipo-mean", "sigmoid-norm", "simpo", "alphapo")
WITH_LIKELIHOOD = {
    **dict.fromkeys(("dpo-sft", "dpo-sft-trl", "internvl-mpo", "cpo", "cpo-trl", "cpo-trl-hinge"), BETA),
    **dict.fromkeys(("cpo-simpo", "cpo-trl-ipo"), MEAN_BETA),
}
WITHOUT_BETA = ("orpo", "orpo-trl", "asft", "slic", "redi", "sft-trl")
OPTIONS = {"dpo-sft": {"nll_weight": 1.0}, "dpo-sft-trl": {"nll_weight": 1.0}, "dpo-gamma": {"gamma": 0.5}}  # where defaults say little
CONTROLS = {"dpo-shuffled": "dpo", "sft-trl-shuffled": "sft-trl"}  # the sides of half of the pairs exchanged: labels that say nothing
GRID: tuning.Grid = {
    **dict.fromkeys(ON_SUMS, margins(BETA)),
    **dict.fromkeys(ON_MEANS, margins(MEAN_BETA)),
    **{name: rates(*LIKELIHOOD, beta=beta) for name, beta in WITH_LIKELIHOOD.items()},
    **dict.fromkeys(WITHOUT_BETA, rates(*LIKELIHOOD)),
    "dpo-shuffled": margins(BETA),
    "sft-trl-shuffled": rates(*LIKELIHOOD),
}
# Rows that pairs would serve and a step on text could measure.
LEFT_OUT = {
    **dict.fromkeys(("capo", "rebel", "egpo"), "regresses on a gap of rewards, which is the same for every right and wrong answer: ipo"),
    **dict.fromkeys(("reward-aware-bwd-kl", "reward-aware-fwd-kl", "reward-aware-sq"), "reads the gap of two rewards, likewise"),
    **dict.fromkeys(("mapo", "mapo-paper", "linear-dpo", "seppo"), "made for denoising errors"),
    "dmpo": "exo at another label smoothing",
    "sft": "sft-trl but for a factor, which AdamW does not see",
}
NOT_PRECOMPUTED = {"extra:sequential_kl", "extra:mismatched"}  # evidence that asks more of the reference than its log-probabilities


@dataclass(frozen=True)
class TextBenchConfig:
    """Align the embedded language model with every objective that its pairs serve, and compare."""

    modality: Literal["text"] = "text"
    output_dir: str = "runs/methods_text"
    methods: list[str] = dataclasses.field(default_factory=lambda: list(GRID))
    """Which objectives, and which controls (their labels shuffled)."""
    seeds: int = 3
    """Trainings of the chosen setting, each judged on problems of its own."""
    max_train_steps: int = 60
    """Optimizer steps of every training: once through the pairs. The demo's has 120 of twice as many pairs."""
    dev_problems: int = 200
    """Problems that choose among an objective's settings."""
    problems: int = 400
    """Unseen problems that judge the chosen one."""


class TextBench(tuning.Bench):
    """The embedded language model, its pairs, and what was judged so far."""

    def __init__(self, config: TextBenchConfig, quiet: bool):
        super().__init__(config, TRAINING.model, quiet)
        self.base = load_language_model(TRAINING.model)
        self.shuffled = write(shuffle_labels(read(sums.PAIRS), seed=0), self.folder / "shuffled.jsonl")

    def train(self, name: str, method: str, settings: Settings, seed: int) -> dict:
        """Its checkpoint is removed when it has ended: the comparison keeps some hundred models."""
        objective, folder = CONTROLS.get(method, method), self.folder / name
        row = objectives.TABLE[objective]
        shared = {
            "data": str(self.shuffled if method in CONTROLS else sums.PAIRS), "output_dir": str(folder),
            "cache_dir": str(self.folder / "cache"), "objective": objective, "objective_options": OPTIONS.get(objective, {}), "beta": None,
            "reference": "start", "precompute_ref_log_probs": not row.needs & NOT_PRECOMPUTED, "seed": seed,
            "train_batch_size": 2 * PAIRS if row.takes == "labels" else PAIRS, "max_train_steps": self.config.max_train_steps,
        }  # fmt: skip
        summary = train(dataclasses.replace(TRAINING, **{**shared, **settings}), quiet=self.quiet)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        return summary

    def judge(self, name: str, prompts: list[str], seed: int, trained: str | None, temperature: float = 1.0) -> list[float]:
        """Whether answers drawn with that seed are right: 1 or 0."""
        model = load_language_model(trained) if trained else self.base
        return judge.score(answer(model, prompts, seed=seed, temperature=temperature, name=name, quiet=self.quiet), prompts).tolist()

    def likeliest(self, name: str, seed: int, trained: str | None) -> np.ndarray:
        """(N,) as ``scores`` of the test problems, by the answers of the likeliest tokens."""
        prompts = self.prompts("test", seed)
        key = f"{name}, likeliest tokens/test/{seed}/{len(prompts)}"
        return self.keep(key, lambda: self.judge(name, prompts, seed, trained, temperature=0.0))

    def row(self, method: str, found: Found) -> dict:
        both, seeds = found.compared(), range(self.config.seeds)
        greedy = np.concatenate([self.likeliest(method, seed, found.runs[seed]["result"]) for seed in seeds])
        greedy_base = np.concatenate([self.likeliest("base", seed, None) for seed in seeds])
        return {
            "method": method, "control": method in CONTROLS, "options": OPTIONS.get(method, {}),
            "win_rate": both.win_rate, "win_rate_ci": both.win_rate_ci, "by_seed": [float(right.mean()) for right in found.aligned],
            "score_base": both.mean_b, "score": both.mean_a, "score_ci": share_ci(np.concatenate(found.aligned), found.groups),
            "change": both.mean_difference, "change_ci": both.mean_difference_ci,
            "greedy_base": float(greedy_base.mean()), "greedy": float(greedy.mean()), "greedy_ci": share_ci(greedy, found.groups),
            "chosen_change": found.mean("held_out/chosen_change"), "rejected_change": found.mean("held_out/rejected_change"),
            "held_out_accuracy": found.mean("held_out/accuracies"), "seconds": float(np.median([run["seconds"] for run in found.runs])),
            "settings": found.settings, "tried": found.tried, "n_problems": both.n_prompts,
        }  # fmt: skip

    def line(self, row: dict) -> str:
        low, high = row["change_ci"]
        return f"{row['method']}: right {row['score_base']:.3f} -> {row['score']:.3f}, {row['change']:+.3f} [{low:+.3f}, {high:+.3f}]"

    def write(self, rows: list[dict]) -> None:
        facts = {"config": dataclasses.asdict(self.config), "training": TRAINING.to_dict(), "left_out": LEFT_OUT, "failed": self.failed}
        bench_page.write(self.folder, facts, rows, bench_page.TEXT)

    def prompts(self, split: str, seed: int) -> list[str]:
        return problems.prompts(split, self.config.dev_problems if split == "dev" else self.config.problems, seed=seed)


def share_ci(values: np.ndarray, groups: np.ndarray) -> list[float]:
    """95 % interval of a share over problems. values: (N,) of zeros and ones. groups: (N,) problems, as integers."""
    return [float(end) for end in share_interval(*prompt_sums(values, groups))]


@quiet_libraries(errors_only=True)
def bench_text(config: TextBenchConfig, *, quiet: bool = False) -> dict:
    """Run it; writes ``methods.json``, ``.md``, ``.html`` and, as a picture, ``methods.svg`` into ``output_dir`` after every objective.

    Raises:
        ConfigError: an objective without a grid, a count below 1, or a folder with another model's results.
    """
    tuning.check(config, GRID)
    return TextBench(config, quiet).run(GRID)
