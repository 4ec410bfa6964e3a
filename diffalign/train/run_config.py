"""What a run of any modality is: the options that the loop, the checkpoints and the log read.

The command line is made from flat dataclasses, and a YAML file is the same options written down. Names are diffusers' and TRL's where the
thing exists there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]


@dataclass(frozen=True)
class RunConfig:
    """Shared by ``TrainConfig`` (images) and ``llm.TextConfig`` (text)."""

    model: str = ""
    """Hub id, folder, single .safetensors checkpoint (images), or an embedded model: builtin:shapes (images), builtin:sums (text)."""
    data: str = ""
    """Preference pairs (or labels, or rankings): folder, .jsonl/.csv/.parquet file, saved data set or hub data set (docs/data.md)."""
    output_dir: str = "runs/train"
    """Everything the run writes. The same command in the same folder resumes it."""
    fresh: bool = False
    """Start over although output_dir holds an unfinished or finished run, which is removed."""

    # model
    train: Literal["lora", "full"] = "lora"
    """LoRA adapters on the network, or all its weights."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: float | None = None
    """The LoRA update is scaled by lora_alpha / lora_rank; default: equal to lora_rank."""
    lora_targets: str = "attention"
    """attention, attention+ff, all-linear, or module names separated by commas."""

    # method
    objective: str | None = None
    """A row of the objective table, such as ipo (diffalign methods lists them). Default: the method's own; of text dpo."""
    beta: float | None = None
    """Strength: per unit of half a mean-over-latent error for images, margin = -beta/2 * Delta; per nat of log-probability for text.
    Default: the method's published value; of text 0.1."""
    objective_options: dict[str, float] = field(default_factory=dict)
    """Further options of the objective, such as sft_weight 0.1. One that it does not use is an error."""
    reference: Literal["none", "base", "start", "past", "ema"] | None = None
    """base: the model without the adapter; start: the weights training starts from; past: the adapter of reference_lora; ema: a moving
    average of the policy. Default: the method's."""
    reference_ema_decay: float | None = None
    """Decay of the reference ema for one optimizer step; default 0.999."""

    # data
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name, then the data set's, such as chosen image_a rejected image_b."""
    data_split: str = "train"
    """Split of a data set that has several."""
    ties: Literal["drop", "half"] = "drop"
    """Pairs without a winner: left out, or kept with probability one half."""
    on_bad_data: Literal["error", "skip"] = "error"
    """Rows that cannot be used stop the run, or are skipped and counted."""
    max_pairs: int | None = None
    """Use at most this many training pairs, chosen by the hash of their ids."""
    held_out: float = 0.05
    """Share of prompts kept out of training to measure preference accuracy on."""
    max_held_out_pairs: int = 256
    """Measure on at most this many held-out pairs, chosen by the hash of their ids."""
    cache_dir: str | None = None
    """Where what is computed once is kept, for any number of models; default: output_dir/cache."""

    # optimisation
    max_train_steps: int = 1000
    """Optimizer steps."""
    train_batch_size: int = 4
    """Pairs in one forward pass; several processes share them, so it is not a number per GPU."""
    gradient_accumulation_steps: int = 1
    """Forward passes an optimizer step; the average over all their pairs is exact."""
    learning_rate: float = 1e-5
    """Step size, after the warm-up."""
    lr_scheduler: Schedule = "constant_with_warmup"
    """How the learning rate goes over the run."""
    lr_warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    optimizer: Literal["adamw", "adamw_8bit", "adafactor"] = "adamw"
    """adamw_8bit needs diffalign[quant]."""
    adam_beta1: float = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: float = 0.999
    """Decay of AdamW's second moment."""
    adam_weight_decay: float = 1e-2
    """Decoupled weight decay (of Adafactor too)."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled to this norm."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the networks; losses and trained weights are float32 always. fp16 needs a GPU."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, same gradients."""
    ema_decay: float | None = None
    """Keep a moving average of the trained weights, and validate and save that."""
    seed: int = 0
    """Of everything that is random."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes the GPU where there is one."""

    # watching
    logging_steps: int = 10
    """Steps that one line of metrics.jsonl averages over."""
    validation_steps: int | None = None
    """Held-out accuracy and validation images every so many steps; default: a fifth of the run."""
    validation_prompts: list[str] = field(default_factory=list)
    """Prompts answered at every validation with fixed seeds; default: the first held-out ones."""
    checkpointing_steps: int | None = None
    """Default: a tenth of the run, at least 50."""
    checkpoints_total_limit: int = 2
    """How many checkpoints are kept."""
    report_to: Literal["none", "tensorboard"] = "none"
    """A tracker beside metrics.jsonl, which is always written; tensorboard needs diffalign[track]."""

    @property
    def validate_every(self) -> int:
        return self.validation_steps or max(1, self.max_train_steps // 5)

    @property
    def checkpoint_every(self) -> int:
        return self.checkpointing_steps or max(50, self.max_train_steps // 10)

    def to_dict(self) -> dict[str, Any]:
        """The resolved configuration without ``fresh``, which says how to start and not what the run is."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "fresh"}

    def to_yaml(self) -> str:
        """``to_dict`` as a file that ``diffalign train`` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
