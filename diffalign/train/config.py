"""What a run is: one flat dataclass. The command line is made from it, and a YAML file is the same options written down.

Names are diffusers' and TRL's where the thing exists there. What is refused, and why, is in ``problems.py``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from diffalign import methods, objectives

Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
BETA_UNIT = "beta is in units of the mean-over-latent squared error: margin = -beta/2 * Delta"


@dataclass(frozen=True)
class TrainConfig:
    model: str = ""
    """Hub id, diffusers folder, single .safetensors checkpoint, or builtin:shapes."""
    data: str = ""
    """Preference pairs (or labels, or rankings): folder, .jsonl/.csv/.parquet file, saved data set or hub data set (docs/data.md)."""
    output_dir: str = "runs/train"
    """Everything the run writes. The same command in the same folder resumes it."""
    fresh: bool = False
    """Start over although output_dir holds an unfinished or finished run, which is removed."""

    # model
    train: Literal["lora", "full"] = "lora"
    """LoRA adapters on the denoiser, or all its weights."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: float | None = None
    """The LoRA update is scaled by lora_alpha / lora_rank; default: equal to lora_rank."""
    lora_targets: str = "attention"
    """attention, attention+ff, all-linear, or module names separated by commas."""
    model_config: str | None = None
    """Folder with the pipeline's configs, for a single-file checkpoint where the hub cannot be reached."""
    vae: str | None = None
    """Another VAE (hub id or folder), such as an fp16-safe one for SDXL."""
    variant: str | None = None
    """Weight variant of a diffusers model, such as fp16."""
    attention: Literal["auto", "sdpa", "cudnn", "flex", "flash", "flash_3", "flash_hub", "flash_3_hub", "xformers"] = "auto"
    """Attention kernel; auto takes xformers for a UNet on a GPU where it works, else torch's own (sdpa)."""
    guidance: float | None = None
    """The guidance scale that FLUX.1-dev is told, policy and reference alike; default 3.5."""

    # method
    method: str = "diffusion-dpo"
    """What is trained (diffalign methods lists them)."""
    objective: str | None = None
    """Another row of the objective table than the method's own, such as ipo (diffalign methods lists them)."""
    beta: float | None = None
    """Strength, in units of the mean-over-latent error: margin = -beta/2 * Delta. Default: the method's published value."""
    objective_options: dict[str, float] = field(default_factory=dict)
    """Further options of the objective, such as sft_weight 0.1. One that it does not use is an error."""
    reference: Literal["none", "base", "start", "ema"] | None = None
    """base: the model without the adapter; start: the weights training starts from; ema: a moving average of the policy. Default: the
    method's."""
    reference_ema_decay: float | None = None
    """Decay of the reference ema for one optimizer step; default 0.999."""
    noising: Literal["shared", "independent", "ddim-inversion", "renoise-inversion"] | None = None
    """Where x_t comes from: noise that the samples of a record share, noise of each its own, or an inversion along the network's ODE.
    Default: the method's."""
    inversion: dict[str, str] = field(default_factory=dict)
    """Settings of an inversion, over the method's: steps 10, grid own (or library, released), eta 0.1, renoise_steps 1."""
    inverted_by: Literal["policy", "reference"] | None = None
    """Whose ODE an inversion follows: the policy's as it is now (as published), or the reference's. Default: the method's."""
    conditioning: Literal["same", "dual captions"] | None = None
    """The prompt for both sides of a pair, or each side's own caption (columns prompt_chosen, prompt_rejected). Default: the method's."""
    soft_label_scale: float | None = None
    """g: a soft label p multiplies beta by g (2p - 1) instead of going into the link (SmPO: 10). Default: the method's."""

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
    resolution: int | None = None
    """Pixels of the square (or of the bucket area's side); default: the model's own."""
    aspect_ratio_buckets: bool = False
    """Keep the images' shapes: sides from 1:2 to 2:1 of about resolution squared pixels."""
    crop: Literal["center", "random"] = "center"
    """Where an image that does not fit is cut, both images of a pair alike."""
    flip: bool = False
    """Mirror half of the pairs, both images together."""
    caption_dropout: float = 0.1
    """Share of draws in which both captions are replaced by the empty one."""
    cache_dir: str | None = None
    """Where VAE moments and text states are kept, for any number of models; default: output_dir/cache."""
    cache_batch_size: int = 16
    """Images or captions encoded at once."""

    # optimisation
    max_train_steps: int = 1000
    """Optimizer steps."""
    train_batch_size: int = 4
    """Pairs in one forward pass."""
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
    timesteps: str | None = None
    """uniform, uniform:LOW:HIGH, logit-normal, logit-normal:MEAN:STD, or timesteps separated by commas. Default: what suits the family
    (logit-normal for flow models, else uniform)."""
    seed: int = 0
    """Of everything that is random."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes the GPU where there is one."""

    # watching
    logging_steps: int = 10
    """Steps that one line of metrics.jsonl averages over."""
    validation_steps: int | None = None
    """Held-out accuracy and validation images every so many steps; default: a fifth of the run."""
    held_out_draws: int = 4
    """Timestep and noise draws of a held-out pair, fixed for the run."""
    validation_prompts: list[str] = field(default_factory=list)
    """Prompts drawn at every validation with fixed seeds; default: the first held-out ones."""
    num_validation_images: int = 4
    """Images a validation; 0 for none."""
    validation_guidance_scale: float = 5.0
    """Guidance scale of the validation images."""
    validation_inference_steps: int = 25
    """Sampling steps of the validation images."""
    checkpointing_steps: int | None = None
    """Default: a tenth of the run, at least 50."""
    checkpoints_total_limit: int = 2
    """How many checkpoints are kept."""
    report_to: Literal["none", "tensorboard"] = "none"
    """A tracker beside metrics.jsonl, which is always written; tensorboard needs diffalign[track]."""

    def point(self):
        """The method as a point of the space (``methods.Point``): the named one, with what is asked for otherwise. The published options
        of an objective hold where the objective is the method's own.

        Raises:
            ValueError: for an unknown method or objective, or an inversion setting that is no number.
        """
        named = methods.get(self.method).point
        objective = self.objective or named.objective
        if objective not in objectives.TABLE:
            objectives.get(objective)
        options = dict(named.objective_options) if objective == named.objective else {}
        if self.beta is not None:
            options["beta"] = self.beta
        noising = self.noising or named.noising
        inversion = dict(named.inversion) if noising == named.noising else {}
        asked = {name: getattr(self, name) for name in ("reference", "inverted_by", "conditioning", "soft_label_scale")}
        return dataclasses.replace(
            named, objective=objective, objective_options={**options, **self.objective_options}, noising=noising,
            inversion={**inversion, **{name: _inversion_setting(name, value) for name, value in self.inversion.items()}},
            **{name: value for name, value in asked.items() if value is not None},
        )  # fmt: skip

    def resolved(self) -> TrainConfig:
        """The same run with the method's choices written out, so that what is kept of it does not change with the table of methods, and
        saying a default aloud is no other configuration. Raises ValueError as ``point`` does."""
        point = self.point()
        options = dict(point.objective_options)
        return dataclasses.replace(
            self, objective=point.objective, beta=options.pop("beta", None), objective_options=options, reference=point.reference,
            noising=point.noising, inversion={name: str(value) for name, value in point.inversion.items()},
            inverted_by=point.inverted_by, conditioning=point.conditioning, soft_label_scale=point.soft_label_scale,
        )  # fmt: skip

    def timestep_sampler(self, default: str = "uniform"):
        """The sampler that ``timesteps`` writes down, or the default one. Raises ValueError where it does not read as one."""
        from diffalign.denoising import timesteps

        if self.timesteps is None:
            return timesteps.get(default)
        kind, *rest = self.timesteps.split(":")
        options = {"uniform": ("low", "high"), "logit-normal": ("logit_mean", "logit_std")}
        number = float if kind == "logit-normal" else int
        try:
            if kind not in options:
                return timesteps.get("list", timesteps=[int(value) for value in self.timesteps.split(",")])
            if len(rest) not in (0, 2):
                raise ValueError("two numbers follow, or none")
            return timesteps.get(kind.replace("-", "_"), **{name: number(value) for name, value in zip(options[kind], rest, strict=False)})
        except ValueError as error:
            allowed = "uniform, uniform:LOW:HIGH, logit-normal, logit-normal:MEAN:STD, or timesteps separated by commas"
            raise ValueError(f"timesteps is {self.timesteps!r}; use {allowed} ({error})") from None

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


INVERSION_SETTINGS = {"steps": int, "grid": str, "eta": float, "renoise_steps": int}


def _inversion_setting(name: str, value: str) -> int | float | str:
    if name not in INVERSION_SETTINGS:
        raise ValueError(f"inversion has no setting {name!r}; allowed are {', '.join(INVERSION_SETTINGS)}")
    try:
        return INVERSION_SETTINGS[name](value)
    except ValueError:
        raise ValueError(f"inversion {name} is {value!r}; it must be a number") from None
