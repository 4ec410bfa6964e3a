"""What a run of self-play is, what of it is refused, and how its folder is claimed."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffalign.pipelines.demo import TRAINING
from diffalign.train import ConfigError, TrainConfig
from diffalign.train.problems import check_machine, checked
from diffalign.worlds.shapes import SAMPLING

METHODS = ("spin-diffusion", "seppo")
WORLDS = tuple(SAMPLING)  # embedded models: their winners can be drawn, and their results judged
DRAWN = "builtin:shapes"  # as data: drawings of that world
STATE = "self_play.yaml"
MAY_CHANGE = ("rounds", "judged_prompts", "output_dir")  # of a run that goes on
LEAST = {"rounds": 1, "winners": 1, "num_inference_steps": 1, "sampling_batch_size": 1, "judged_prompts": 0}


@dataclass(frozen=True)
class SelfPlayConfig(TrainConfig):
    """Align a model by rounds of self-play: the data's pictures win against the model's own.

    The options of diffalign train hold for every round; optimizer and learning-rate schedule begin anew with each.
    """

    data: str = ""
    """Whose pictures win: pairs (their chosen ones), labels (the good ones), rankings (the best), or builtin:shapes (drawings)."""
    output_dir: str = "runs/self-play"
    """Everything that is written. The same command goes on where it was."""
    method: str = "spin-diffusion"
    """spin-diffusion or seppo."""
    rounds: int = 3
    """How often pictures are drawn and trained against."""
    winners: int | None = None
    """Pictures of the data in a round, chosen anew for each round; default: all of them (of drawings: 512)."""
    num_inference_steps: int = 50
    """Steps in which the policy draws its pictures."""
    guidance_scale: float = 7.5
    """Guidance with which it does."""
    sampling_batch_size: int = 8
    """Pictures drawn at once."""
    judged_prompts: int = 0
    """Of an embedded model: unseen prompts on which every round's adapter is compared with the initial policy."""

    def plain(self, **changes: Any) -> TrainConfig:
        """The options of diffalign train among these."""
        return TrainConfig(**{field.name: vars(self)[field.name] for field in dataclasses.fields(TrainConfig)} | changes)


ON_SHAPES = SelfPlayConfig(**{
    **vars(TRAINING), "data": DRAWN, "output_dir": "runs/self-play", "method": METHODS[0], "sampling_batch_size": 64, "judged_prompts": 400,
    "max_train_steps": 100, **SAMPLING[TRAINING.model],
})  # fmt: skip


def default_for(argv: list[str]) -> SelfPlayConfig:
    """What the command starts from: for an embedded model, or none named, drawings and the demo's settings."""
    named = [value for flag, value in zip(argv, argv[1:], strict=False) if flag == "--model"]
    named += [flag.removeprefix("--model=") for flag in argv if flag.startswith("--model=")]
    return ON_SHAPES if not named or named[-1] in WORLDS else SelfPlayConfig()


def refuse(config: SelfPlayConfig) -> None:
    """Raises ConfigError with everything that is wrong, before anything is drawn."""
    found = []
    if config.method not in METHODS:
        found.append(f"method is {config.method!r}; self-play is for {' and '.join(METHODS)} (others: diffalign train)")
    if config.train != "lora":
        found.append(f"train is {config.train!r}; rounds go on from adapters: use lora")
    if config.reference is not None or config.reference_lora is not None:
        found.append("the reference is the opponent of the round: leave reference and reference_lora out")
    for name, least in LEAST.items():
        if (value := vars(config)[name]) is not None and value < least:
            found.append(f"{name} is {value}; it must be at least {least}")
    if config.model not in WORLDS:
        embedded = f"is for the embedded models ({', '.join(WORLDS)}), and model is {config.model!r}"
        found += [f"data {DRAWN} {embedded}: name your own"] if config.data == DRAWN else []
        found += [f"judged_prompts {embedded}: leave it out"] if config.judged_prompts else []
    if found:
        raise ConfigError("\n".join(found))
    check_machine(checked(config.plain()))


def kept(config: SelfPlayConfig) -> dict[str, Any]:
    """The configuration without ``fresh``, which says how to start and not what the run is."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "fresh"}


def claim(config: SelfPlayConfig, winners: str) -> Path:
    """Make the output folder this run's own, and return it; ``fresh`` removes its rounds.

    Args:
        winners: a key of the pictures that win.

    Raises:
        ConfigError: the folder holds a run with another configuration or other winners; the differences are listed.
    """
    folder = Path(config.output_dir)
    stored, now = folder / STATE, {**kept(config), "winners_key": winners}
    if config.fresh:
        for old in folder.glob("round_*"):
            shutil.rmtree(old)
    elif stored.exists():
        old = yaml.safe_load(stored.read_text(encoding="utf-8"))
        names = [name for name in {**old, **now} if name not in MAY_CHANGE and old.get(name) != now.get(name)]
        if names:
            lines = [f"  {name}: {old.get(name)!r} there, {now.get(name)!r} now" for name in names]
            advice = "Use another --output-dir, or --fresh to start over"
            raise ConfigError("\n".join([f"{folder} holds self-play with another configuration:", *lines, advice]))
    folder.mkdir(parents=True, exist_ok=True)
    stored.write_text(yaml.safe_dump(now, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return folder
