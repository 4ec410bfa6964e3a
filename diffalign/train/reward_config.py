"""What a run that learns a reward is: one flat dataclass, as of ``diffalign train``. Defaults are PickScore's, where it has the thing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from diffalign.train.errors import ConfigError
from diffalign.train.run_config import Schedule


@dataclass(frozen=True)
class RewardConfig:
    """Learn a reward from preference pairs: a CLIP whose score says which of two images people prefer for a prompt.

    The result is a folder in PickScore's format, for diffalign score --reward pickscore --weights pickscore=FOLDER. A run that was killed
    goes on when the same command is given again.
    """

    data: str = ""
    """Preference pairs (or rankings), as diffalign train reads them (docs/data.md)."""
    output_dir: str = "runs/reward"
    """Everything the run writes; the reward itself is its folder model."""
    fresh: bool = False
    """Start over although output_dir holds an unfinished or finished run, which is removed."""

    model: str = ""
    """A CLIP to start from: folder or hub id (PickScore: laion/CLIP-ViT-H-14-laion2B-s32B-b79K). Without one: small, from scratch."""
    tokenizer: str = ""
    """Folder of the tokenizer, for a network from scratch."""
    network: dict[str, int] = field(default_factory=dict)
    """Sizes of a network from scratch: image_size, patch_size, width, layers, heads, text_width, text_layers, text_heads, projection."""
    train: Literal["full", "lora", "head"] = "full"
    """All weights; LoRA adapters in both towers with the projections; or the projections alone, on features computed once."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: float | None = None
    """The LoRA update is scaled by lora_alpha / lora_rank; default: equal to lora_rank."""

    loss: Literal["bradley-terry", "davidson"] = "bradley-terry"
    """The softmax of two scores (PickScore's); or the same with ties, whose share is learned along (give ties half)."""
    label_smoothing: float = 0.0
    """Share of labels taken to be wrong (bradley-terry)."""
    in_batch_negatives: bool = False
    """Choose among all images and captions of the batch, not between the pair's two images (in PickScore's code, off by default)."""
    groups: int = 1
    """Rewards to learn, one for each group of raters that agree (MaxMin-RLHF's mixture). Raters are told apart by the column origin."""
    assign_steps: int = 100
    """Steps between two assignments of raters to groups."""
    balance_prompts: bool = True
    """Weight a pair by one over the number of pairs of its prompt, as PickScore does."""

    columns: dict[str, str] = field(default_factory=dict)
    """Our column name, then the data set's, such as chosen image_a rejected image_b origin user_id."""
    data_split: str = "train"
    """Split of a data set that has several."""
    ties: Literal["drop", "half"] = "drop"
    """Pairs without a winner: left out, or kept with probability one half."""
    on_bad_data: Literal["error", "skip"] = "error"
    """Rows that cannot be used stop the run, or are skipped and counted."""
    held_out: float = 0.05
    """Share of prompts kept out of training to measure accuracy on."""

    max_train_steps: int = 4000
    """Optimizer steps."""
    train_batch_size: int = 128
    """Pairs in one forward pass."""
    gradient_accumulation_steps: int = 1
    """Forward passes an optimizer step; negatives of a batch are those of one forward pass."""
    learning_rate: float = 3e-6
    """Step size, after the warm-up."""
    lr_scheduler: Schedule = "linear"
    """How the learning rate goes over the run."""
    lr_warmup_steps: int = 500
    """Steps over which the learning rate rises from 0."""
    adam_beta2: float = 0.999
    """Decay of AdamW's second moment."""
    adam_weight_decay: float = 0.3
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled to this norm."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the towers; scores, losses and weights are float32 always."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, same gradients."""
    seed: int = 0
    """Of everything that is random."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes the GPU where there is one."""

    logging_steps: int = 10
    """Steps that one line of metrics.jsonl averages over."""
    validation_steps: int | None = None
    """Held-out accuracy every so many steps; default: a tenth of the run."""
    checkpointing_steps: int | None = None
    """Default: a tenth of the run, at least 50."""

    @property
    def validate_every(self) -> int:
        return self.validation_steps or max(1, self.max_train_steps // 10)

    @property
    def checkpoint_every(self) -> int:
        return self.checkpointing_steps or max(50, self.max_train_steps // 10)

    def to_dict(self) -> dict[str, Any]:
        """Without ``fresh``, which says how to start and not what the run is."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "fresh"}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def check(config: RewardConfig) -> None:
    """Raises ConfigError with everything that is wrong."""
    found = []
    if not config.data:
        found.append("data is missing: name the preference pairs, --data PAIRS")
    if config.model and (config.tokenizer or config.network):
        found.append("tokenizer and network are of a network from scratch, and model names a trained one: leave the one or the other out")
    if not config.model and not config.tokenizer:
        found.append("nothing to start from: give a CLIP (--model), or a tokenizer for a small network from scratch (--tokenizer FOLDER)")
    if not config.model and config.train != "full":
        found.append(f"train is {config.train!r}, which keeps the towers as they are, and those of a network from scratch know nothing")
    if config.train != "lora" and config.lora_alpha is not None:
        found.append(f"lora_alpha is {config.lora_alpha} and train is {config.train!r}, which has no adapters")
    if config.loss == "davidson":
        if config.ties != "half":
            found.append("loss davidson learns from ties, and ties drop leaves them out: --ties half")
        if config.in_batch_negatives or config.label_smoothing:
            found.append("loss davidson has neither in_batch_negatives nor label_smoothing: leave them out")
    if config.in_batch_negatives and config.label_smoothing:
        found.append("in_batch_negatives has no label_smoothing: leave it out, or give soft labels (column probability)")
    counts = ("groups", "assign_steps", "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "logging_steps", "lora_rank")
    for name in counts:
        if (value := vars(config)[name]) < 1:
            found.append(f"{name} is {value}; it must be at least 1")
    if not config.learning_rate > 0:
        found.append(f"learning_rate is {config.learning_rate}; it must be positive")
    if not 0 <= config.label_smoothing < 0.5:
        found.append(f"label_smoothing is {config.label_smoothing}; it is a share of labels, in [0, 0.5)")
    if not 0 <= config.held_out < 1:
        found.append(f"held_out is {config.held_out}; it is a share of prompts, from 0 to below 1")
    if found:
        raise ConfigError("\n".join(found))
