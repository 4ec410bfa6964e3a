"""The whole way on the embedded language model: pairs, alignment (DPO with a pull on the winners), unseen problems, controls, a report."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffalign.eval.stats.compare import compare, mean_ci
from diffalign.llm import Writer, load_language_model
from diffalign.llm.command import TextConfig, train
from diffalign.llm.sampling import sample
from diffalign.train.errors import ConfigError
from diffalign.train.validate import quiet_libraries
from diffalign.worlds import sums
from diffalign.worlds.sums import judge, problems

MIN_PROBLEMS, MAX_PROBLEMS = 20, 5000
PAIR_PROBLEMS, PAIR_SAMPLES = 1600, 4
TRAINING = TextConfig(
    model="builtin:sums", train="full", objective="dpo-sft", beta=0.1, objective_options={"nll_weight": 1.0}, learning_rate=1e-4,
    lr_scheduler="cosine", max_train_steps=120, train_batch_size=32, adam_weight_decay=0.0, held_out=0.05, num_validation_samples=0,
    validation_steps=10**6, checkpointing_steps=10**6, group_by_length=False, device="cpu",
)  # fmt: skip


@dataclass(frozen=True)
class TextDemoConfig:
    """Align the embedded language model and measure what it brought."""

    modality: Literal["text"] = "text"
    output_dir: str = "runs/demo_text"
    seed: int = 0
    """Of everything: order, and the answers that are judged."""
    fresh_pairs: bool = False
    """Sample and judge the training pairs now, as the shipped ones were, instead of taking those."""
    problems: int = 400
    """Unseen problems that judge the result."""
    max_train_steps: int = TRAINING.max_train_steps
    """Optimizer steps of the alignment, and of its control."""


@quiet_libraries(errors_only=True)
def demo_text(config: TextDemoConfig, *, quiet: bool = False) -> dict:
    """Run it; writes ``summary.json``, ``report.md`` and the model (``aligned/model``) into ``output_dir``.

    Returns:
        the summary. Every number in it was measured in this run.

    Raises:
        ConfigError: fewer than 20 problems, or more than 5000.
    """
    if not MIN_PROBLEMS <= config.problems <= MAX_PROBLEMS:
        raise ConfigError(f"problems is {config.problems}; allowed are {MIN_PROBLEMS} to {MAX_PROBLEMS} (400 is what the docs report)")
    started, folder = time.time(), Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    base = load_language_model(TRAINING.model)
    prompts = problems.prompts("test", config.problems, seed=config.seed)
    pairs = folder / "pairs.jsonl" if config.fresh_pairs else sums.PAIRS
    if config.fresh_pairs:
        write(sample_pairs(base, config.seed + 1, quiet), pairs)
    unpicked = write(unpicked_pairs(base, config.seed, quiet), folder / "unpicked.jsonl")

    runs, models = {}, {"base": base}
    for name, source in (("aligned", pairs), ("unpicked answers", unpicked)):
        settings = {"data": str(source), "output_dir": str(folder / name.split()[0]), "seed": config.seed, "fresh": True}
        runs[name] = train(dataclasses.replace(TRAINING, **settings, max_train_steps=config.max_train_steps), quiet=quiet)
        models[name] = load_language_model(runs[name]["result"])

    def answers(name: str, index: int = 0, temperature: float = 1.0) -> list[str]:
        return answer(models[name], prompts, index=index, seed=config.seed, temperature=temperature, name=name, quiet=quiet)

    found = {name: answers(name) for name in models} | {"base, sampled again": answers("base", index=1)}
    greedy = {name: judge.score(answers(name, temperature=0.0), prompts).numpy() for name in models}
    right = {name: judge.score(texts, prompts).numpy() for name, texts in found.items()}
    result = compare(right["aligned"], right["base"], seed=config.seed)
    controls = {name: compare(right[name], right["base"], seed=config.seed) for name in ("base, sampled again", "unpicked answers")}
    summary = {
        "success": {name: rate(values, config.seed) for name, values in right.items()},
        "success_greedy": {name: rate(values, config.seed) for name, values in greedy.items()},
        "gain": result.mean_difference,
        "gain_ci": result.mean_difference_ci,
        "n_problems": len(prompts),
        "controls": {name: {"gain": c.mean_difference, "gain_ci": c.mean_difference_ci} for name, c in controls.items()},
        "facets": {name: {k: float(v.mean()) for k, v in judge.facets(found[name], prompts).items()} for name in found},
        "training": runs,
        "settings": {"demo": dataclasses.asdict(config), "training": TRAINING.to_dict()},
        "seconds": round(time.time() - started, 1),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    (folder / "report.md").write_text(report(summary, prompts, found, right), encoding="utf-8")
    return summary


def rate(values, seed: int) -> dict:
    """A share of right answers with its 95 % interval over problems."""
    return {"rate": float(values.mean()), "ci": mean_ci(values, seed=seed)}


def answer(model, prompts: list[str], **settings) -> list[str]:
    """One worked answer a prompt; settings as of ``llm.sampling.sample``."""
    writer = Writer(model.tokenizer, model.name)
    return sample(model, writer, prompts, max_new_tokens=problems.LENGTH + 1, batch_size=256, **settings)


def sample_pairs(model, seed: int = 0, quiet: bool = False) -> list[dict]:
    """On-policy pairs of training problems as the shipped ones were made (with seed 0): of four sampled answers the first that is right and
    the first that is wrong. Problems whose answers are all right or all wrong give none."""
    prompts = problems.prompts("train", PAIR_PROBLEMS, seed=seed)
    drawn = [answer(model, prompts, index=k, seed=seed, name=f"{k + 1} of {PAIR_SAMPLES}", quiet=quiet) for k in range(PAIR_SAMPLES)]
    scores = [judge.score(texts, prompts).bool().tolist() for texts in drawn]
    pairs = []
    for i, prompt in enumerate(prompts):
        right = [texts[i] for texts, score in zip(drawn, scores, strict=True) if score[i]]
        wrong = [texts[i] for texts, score in zip(drawn, scores, strict=True) if not score[i]]
        if right and wrong:
            pairs.append({"prompt": prompt, "chosen": right[0], "rejected": wrong[0]})
    return pairs


def unpicked_pairs(model, seed: int = 0, quiet: bool = False) -> list[dict]:
    """Two sampled answers a training problem as they come, the first called chosen: labels that say nothing, of answers
    that were not picked by their being right either (of shipped pairs half are, whatever their labels say; docs/text.md)."""
    prompts = problems.prompts("train", len(read(sums.PAIRS)), seed=seed)
    first, second = (answer(model, prompts, index=k, seed=seed, name=f"{k + 1} of 2", quiet=quiet) for k in range(2))
    return [{"prompt": p, "chosen": a, "rejected": b} for p, a, b in zip(prompts, first, second, strict=True) if a != b]


def shuffle_labels(pairs: list[dict], seed: int) -> list[dict]:
    """The same pairs with the sides of a random half exchanged: what training makes of labels that say nothing."""
    rng = random.Random(seed)
    return [{**p, "chosen": p["rejected"], "rejected": p["chosen"]} if rng.random() < 0.5 else p for p in pairs]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(pairs: list[dict], path: Path) -> Path:
    """Pairs as a file that ``diffalign train --modality text --data`` reads."""
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return path


def report(summary: dict, prompts: list[str], found: dict[str, list[str]], right: dict) -> str:
    """The page: verdict, table, examples before and after."""

    def line(name, values):
        return f"| {name} | {values['rate']:.3f} [{values['ci'][0]:.3f}, {values['ci'][1]:.3f}] |"

    low, high = summary["gain_ci"]
    rows = [line(name, values) for name, values in summary["success"].items()]
    rows += [line(f"{name}, likeliest tokens", values) for name, values in summary["success_greedy"].items()]
    changed = [i for i in range(len(prompts)) if right["aligned"][i] != right["base"][i]][:8]
    examples = [f"| `{prompts[i]}` | `{found['base'][i]}` | `{found['aligned'][i]}` |" for i in changed]
    return "\n".join(
        [
            f"# diffalign demo: {TRAINING.objective} on builtin:sums", "",
            f"The aligned model solves a share of {summary['gain']:+.3f} [{low:+.3f}, {high:+.3f}] more of {summary['n_problems']} unseen "
            "problems than the base (95 % interval over problems).", "",
            "| answers | right |", "|---|---|", *rows, "",
            "Where the two differ (the first eight):", "",
            "| problem | base | aligned |", "|---|---|---|", *examples, "",
        ]
    )  # fmt: skip


if __name__ == "__main__":  # sample the pairs that ship: python -m diffalign.pipelines.demo_text
    made = sample_pairs(load_language_model(TRAINING.model))
    print(write(made, sums.PAIRS), len(made))
