"""What a model family gives to training: one class with the few calls a preference step needs.

A family (``sd.py``, ``sdxl.py``, ``sd3.py``, ``flux.py`` ...) says how prompts are encoded and how the network is called; everything else
is here. Latents are (N, C, h, w) and scaled as the network sees them, ``(vae(x) - shift_factor) * scaling_factor``, so nothing downstream
knows about factors, packing or patches.
"""

import gc
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffalign.denoising import Path
from diffalign.models.parts import alike, dtype_name, fingerprint
from diffalign.models.prompts import PromptReader


class DiffusionModel(PromptReader):
    """A conditional image diffusion model, taken apart.

    Attributes:
        name, family: what ``load_model`` was asked for, and which family it turned out to be.
        denoiser: the bare network, with its adapters; save and toggle adapters here.
        network: what ``predict`` calls. It is ``denoiser`` until a trainer sets it to what accelerate or torch.compile made of it.
        path: noising path (``diffalign.denoising``).
        vae: the autoencoder; None once released. Tokenizers and text encoders: see ``PromptReader``.
        conditioning_keys: the names of the tensors that ``predict`` reads.
    """

    family: ClassVar[str]
    denoiser_name: ClassVar[str] = "transformer"  # diffusers' component name
    conditioning_keys: tuple[str, ...]
    options: ClassVar[dict[str, Any]] = {}  # the stock pipeline's arguments, both when it is loaded and when it is put together
    single_file: ClassVar[str | None] = None  # what a checkpoint in the original layout gives: "pipeline", "denoiser" or nothing
    timestep_sampler: ClassVar[str] = "uniform"  # the ``denoising.timesteps`` that suits the family, for a trainer's default
    guidance_argument: ClassVar[str] = "guidance_scale"  # what the stock call names the scale of classifier-free guidance
    latent_facts: ClassVar[tuple[str, ...]] = ("scaling_factor", "shift_factor")  # what ``moments`` reads of the VAE's config

    def __init__(self, pipeline: Any, source: Any):
        self.name, self.source = source.name, source
        parts = pipeline.components
        self.denoiser: nn.Module = parts[self.denoiser_name]
        self.network: nn.Module = self.denoiser
        self.vae: nn.Module | None = parts["vae"]
        self.vae_config = dict(self.vae.config)
        self.read_text_parts(parts, source.max_sequence_length)
        self.scheduler = pipeline.scheduler
        self.settings = self.read_settings(pipeline)
        self.path = self.build_path(dict(self.scheduler.config))
        self._provenance: dict[str, Any] | None = None
        for frozen in (self.vae, *self.text_encoders.values()):
            frozen.requires_grad_(False).eval()
        self.check()

    # What a family says ---------------------------------------------------------------------------------------------------------------

    @staticmethod
    def pipeline_class():
        """The stock diffusers pipeline class (imported here, so that importing this package stays light)."""
        raise NotImplementedError

    @staticmethod
    def denoiser_class():
        """The stock class of the denoiser, for families whose single files hold it alone (``single_file = "denoiser"``)."""
        raise NotImplementedError

    @staticmethod
    def vae_class():
        """The stock class of the autoencoder."""
        from diffusers import AutoencoderKL

        return AutoencoderKL

    def check(self) -> None:
        """Refuse weights this family cannot train; ValueError with the reason. Here: a network whose input is more than the latents."""
        channels, latents = self.denoiser.config.in_channels, self.latent_channels
        if channels != latents:
            raise ValueError(
                f"the {self.denoiser_name} of '{self.name}' takes {channels} channels and latents have {latents}: "
                f"load a text-to-image model"
            )

    def read_settings(self, pipeline: Any) -> dict[str, Any]:
        """Settings of the loaded pipeline that belong to the model and go into every pipeline made from it."""
        return {}

    def build_path(self, scheduler_config: dict) -> Path:
        """The noising path that the scheduler's config describes."""
        raise NotImplementedError

    def size_conditioning(self, original_sizes: Tensor, crops: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Conditioning on image geometry from three (N, 2) tensors in pixels: (height, width), (top, left), (height, width)."""
        return {}

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (N, C, h, w) float32, of the scaled latents of images (N, 3, H, W), which are in the VAE's dtype."""
        posterior = self.vae.encode(images).latent_dist
        scale, shift = self.vae_config["scaling_factor"], self.vae_config.get("shift_factor") or 0.0
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, 3, H, W) in about [-1, 1], in the VAE's dtype, of scaled latents (N, C, h, w): what ``moments`` encoded."""
        scale, shift = self.vae_config["scaling_factor"], self.vae_config.get("shift_factor") or 0.0
        return self.vae.decode((latents / scale + shift).to(self.vae.dtype), return_dict=False)[0]

    @property
    def module(self) -> nn.Module:
        """The denoiser by the name that models of every modality have for what is trained (``reference.Model``)."""
        return self.denoiser

    @property
    def patch_size(self) -> int:
        """Latents per token of the network, along each side (1 for a UNet)."""
        return self.denoiser.config.get("patch_size", 1)

    def sampling_arguments(self, prompt: str, height: int, width: int) -> dict[str, Any]:
        """Arguments that make the stock pipeline draw one height x width image of this prompt, as it was encoded for training."""
        length = {} if self.max_sequence_length is None else {"max_sequence_length": self.max_sequence_length}
        return {"prompt": prompt, "height": height, "width": width, **length}

    def call(self, network: Callable[..., Any], x_t: Tensor, time: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """One forward of the network as the stock pipeline does it."""
        raise NotImplementedError

    # What every family shares ---------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network's first layer: what its input is cast to (adapters may be float32 in a bfloat16 network)."""
        return next(self.denoiser.parameters()).dtype

    @property
    def latent_channels(self) -> int:
        return self.vae_config["latent_channels"]

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @property
    def image_multiple(self) -> int:
        """What both sides of an image, in pixels, must be multiples of."""
        return self.spatial_factor * self.patch_size

    @property
    def default_resolution(self) -> int:
        """Side in pixels of the images the model was trained for."""
        return self.denoiser.config.sample_size * self.spatial_factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a height x width image; ValueError where the sides do not divide."""
        factor, multiple = self.spatial_factor, self.image_multiple
        if height % multiple or width % multiple:
            raise ValueError(f"an image of {height} x {width} has no latents in '{self.name}': both sides must be multiples of {multiple}")
        return self.latent_channels, height // factor, width // factor

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of the scaled latents' posterior: x0 ~ N(mean, std^2), x0 = (z - shift_factor) * scaling_factor.

        Args: images (N, 3, H, W), floating point, in [-1, 1].
        Returns: mean and std, (N, C, h, w) float32 each. The VAE runs in its own dtype whatever autocast surrounds the call.
        """
        if self.vae is None:
            raise ValueError(f"the VAE of '{self.name}' was released: encode images before release_encoders(), or load the model again")
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images must be (N, 3, H, W) floating point in [-1, 1], got {tuple(images.shape)} {images.dtype}")
        self.latent_shape(*images.shape[2:])
        weight = next(self.vae.parameters())
        with torch.autocast(weight.device.type, enabled=False):
            return self.moments(images.to(weight.device, weight.dtype))

    @torch.no_grad()
    def decode_images(self, latents: Tensor) -> Tensor:
        """Images (N, 3, H, W) float32 in [-1, 1] of latents (N, C, h, w), scaled as ``encode_images`` gives them; by the VAE alone."""
        if self.vae is None:
            raise ValueError(f"the VAE of '{self.name}' was released: decode before release_encoders(), or load the model again")
        weight = next(self.vae.parameters())
        with torch.autocast(weight.device.type, enabled=False):
            return self.decode(latents.to(weight.device, torch.float32)).float().clamp(-1, 1)

    def predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor], network: Callable[..., Any] | None = None) -> Tensor:
        """The network's prediction (of the kind ``path.prediction_type`` names), as it comes.

        Args:
            x_t: (N, C, h, w) noised latents, cast to the network's dtype here.
            t: (N,) times of the path, on any device.
            conditioning: ``encode_prompts`` and ``size_conditioning`` merged, N rows each.
            network: in place of ``self.network`` (references use it).
        Returns: (N, C, h, w) in the network's (or autocast's) dtype; losses are computed after ``.float()``.
        """
        if set(conditioning) != set(self.conditioning_keys):
            raise ValueError(f"conditioning has {sorted(conditioning)}, '{self.family}' reads exactly {sorted(self.conditioning_keys)}")
        network = self.network if network is None else network
        x_t = x_t.to(self.device, self.dtype)
        return self.call(network, x_t, self.path.model_time(t).to(x_t.device), {k: v.to(x_t.device) for k, v in conditioning.items()})

    def release_encoders(self) -> None:
        """Drop VAE and text encoders; their fingerprints and the empty prompt are kept. ``pipeline`` reads them from the source again."""
        self.provenance(), self.empty_prompt()
        self.vae, self.text_encoders = None, {}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def pipeline(self, with_text: bool = True):
        """The stock diffusers pipeline around the *live* denoiser (adapters included), all in the denoiser's dtype and on its device.

        It keeps seeing the denoiser as training goes on; encoders are shared, or read from the source where they were released.
        ``with_text=False`` leaves the text encoders out: the caller passes prompt embeddings. Safety checkers are not loaded.
        """
        absent = {name: None for pair in self.text_names.items() for name in pair}
        texts = {**absent, **self.tokenizers, **self.text_encoders}
        vae = self.vae
        if vae is None:
            loaded = self.source.load(**{self.denoiser_name: self.denoiser}, **({} if with_text else absent)).components
            vae, texts = loaded["vae"], {name: loaded[name] for name in absent}
        if not with_text:
            texts = absent
        parts = {name: alike(part, self.device, self.dtype) for name, part in {"vae": vae, **texts}.items()}
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        return self.pipeline_class()(**{self.denoiser_name: self.denoiser}, **parts, scheduler=scheduler, **self.options, **self.settings)

    def provenance(self) -> dict[str, Any]:
        """What cached latents and text states depend on: content hashes and dtypes, so that a moved or renamed model keeps its caches."""
        if self._provenance is None:
            facts = {"family": self.family, "vae": fingerprint(self.vae), "vae_dtype": dtype_name(self.vae)}
            facts |= {key: self.vae_config.get(key) for key in self.latent_facts}
            self._provenance = facts | self.text_provenance()
        return dict(self._provenance)
