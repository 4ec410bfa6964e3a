"""What a run is: one flat dataclass. The command line is made from it, and a YAML file is the same options written down.

Names are diffusers' and TRL's where the thing exists there. What is refused, and why, is in ``problems.py``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from diffalign import methods, objectives
from diffalign.train.run_config import RunConfig

ERROR_UNIT = "l is a mean-over-latent squared error, evidence -l/2"


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """A run that trains a diffusion model of images."""

    modality: Literal["image"] = "image"
    """What is generated: image, or text (which has options of its own: --modality text --help)."""

    # model
    init_lora: str | None = None
    """Folder or file of an adapter that training continues, with its own rank, alpha and layers (SimpleTuner's name). Reference start is
    that adapter as it was, reference base the model without it."""
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
    max_sequence_length: int | None = None
    """Tokens of a prompt for the long text encoder (T5 of SD3, FLUX and PixArt; Gemma), as in the stock pipeline's call, which has to be
    given the same; default: its own (256, 512, 120 or 300; 256). 0 is for SD3 without T5."""

    # method
    method: str = "diffusion-dpo"
    """What is trained (diffalign methods lists them)."""
    reference_lora: str | None = None
    """Folder or file of the earlier adapter that reference past compares with."""
    noising: Literal["shared", "independent", "ddim-inversion", "renoise-inversion"] | None = None
    """Where x_t comes from: noise that the samples of a record share, noise of each its own, or an inversion along the network's ODE.
    Default: the method's."""
    inversion: dict[str, str] = field(default_factory=dict)
    """Settings of an inversion, over the method's: steps 10, grid own (or library, released), eta 0.1, renoise_steps 1."""
    inverted_by: Literal["policy", "reference"] | None = None
    """Whose ODE an inversion follows: the policy's as it is now (as published), or the reference's. Default: the method's."""
    cache_inversion: bool = False
    """Keep an inversion by the reference on disk (output_dir/inversion): a picture's ODE is followed once, and one step of it each time
    after. Needs posterior mean and eta 0; a flipped picture and a dropped caption count as pictures of their own."""
    conditioning: Literal["same", "dual captions"] | None = None
    """The prompt for both sides of a pair, or each side's own caption (columns prompt_chosen, prompt_rejected). Default: the method's."""
    soft_label_scale: float | None = None
    """g: a soft label p multiplies beta by g (2p - 1) instead of going into the link (SmPO: 10). Default: the method's."""

    # data
    resolution: int | None = None
    """Pixels of the square (or of the bucket area's side); default: the model's own."""
    aspect_ratio_buckets: bool = False
    """Keep the images' shapes: sides from 1:2 to 2:1 of about resolution squared pixels."""
    crop: Literal["center", "random"] = "center"
    """Where an image that does not fit is cut, both images of a pair alike."""
    flip: bool = False
    """Mirror half of the pairs, both images together."""
    posterior: Literal["sample", "mean"] = "sample"
    """What stands for an image: a sample of the VAE's posterior, drawn anew each time, or its mean."""
    caption_dropout: float = 0.1
    """Share of draws in which both captions are replaced by the empty one."""
    cache_batch_size: int = 16
    """Images or captions encoded at once."""

    # optimisation
    timesteps: str | None = None
    """uniform, uniform:LOW:HIGH, logit-normal, logit-normal:MEAN:STD, or timesteps separated by commas. Default: what suits the family
    (logit-normal for flow models, else uniform)."""

    # watching
    held_out_draws: int = 4
    """Timestep and noise draws of a held-out pair, fixed for the run."""
    num_validation_images: int = 4
    """Images a validation; 0 for none."""
    validation_guidance_scale: float = 5.0
    """Guidance scale of the validation images."""
    validation_inference_steps: int = 25
    """Sampling steps of the validation images."""

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

    def objective_line(self) -> str:
        """The settings of the objective, and the formula in which they stand. Raises ValueError as ``point`` does."""
        point = self.point()
        settings = ", ".join(f"{name} = {value:g}" for name, value in point.objective_options.items()) or "its own defaults"
        return f"{point.objective} with {settings}: {objectives.TABLE[point.objective].formula}; {ERROR_UNIT}"

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



INVERSION_SETTINGS = {"steps": int, "grid": str, "eta": float, "renoise_steps": int}


def _inversion_setting(name: str, value: str) -> int | float | str:
    if name not in INVERSION_SETTINGS:
        raise ValueError(f"inversion has no setting {name!r}; allowed are {', '.join(INVERSION_SETTINGS)}")
    try:
        return INVERSION_SETTINGS[name](value)
    except ValueError:
        raise ValueError(f"inversion {name} is {value!r}; it must be a number") from None
