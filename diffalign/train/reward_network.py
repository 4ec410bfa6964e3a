"""The network of a learned reward: a CLIP in PickScore's own format, its preprocessing, and what of it is trained."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffalign import data
from diffalign.models.places import first_line, unreachable

# Of a network from scratch, unless told otherwise: a CLIP for pictures of 32 pixels.
SIZES = {"image_size": 32, "patch_size": 4, "width": 64, "layers": 3, "heads": 4, "text_width": 64, "text_layers": 3, "text_heads": 4,
         "projection": 64}  # fmt: skip
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]  # of both towers
LARGEST_SCALE = 100.0  # CLIP's own bound on exp(logit_scale) (arXiv:2103.00020, section 2.5)


class ClipReward(nn.Module):
    """score = exp(logit_scale) cos(image, caption): PickScore's (arXiv:2305.01569, eq. 1).

    ``network``: a transformers ``CLIPModel``. Images are prepared as transformers' CLIP processor does it with PIL: shortest side to the
    tower's size, bicubic; centre crop; mean and deviation of CLIP's training images. The saved folder is what
    ``load_reward("pickscore", weights=folder)`` loads, which prepares them in the same way.
    """

    def __init__(self, network: nn.Module, tokenizer: Any):
        super().__init__()
        text = network.config.text_config
        if len(tokenizer) != text.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} entries and the network {text.vocab_size}: its files are missing or another model's"
            )
        self.network, self.tokenizer, self._tuner = network, tokenizer, None
        self.processor = image_processor(network.config.vision_config.image_size)

    def pixels(self, images: Sequence[data.Image]) -> Tensor:
        """(N, 3, size, size) float32, normalised. ValueError where an image cannot be read."""
        return self.processor([image.load() for image in images], return_tensors="pt")["pixel_values"]

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """(N, L) ids, cut to the text tower's length with the end token kept."""
        length = self.network.config.text_config.max_position_embeddings
        return self.tokenizer(list(captions), padding=True, truncation=True, max_length=length, return_tensors="pt")["input_ids"]

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(N, 3, size, size) -> (N, width), before the projection."""
        return self.network.vision_model(pixel_values=pixels).pooler_output

    def encode_captions(self, ids: Tensor) -> Tensor:
        """(N, L) ids -> (N, text width), before the projection. The tower is causal and pools at the end token: padding is not read."""
        return self.network.text_model(input_ids=ids).pooler_output

    def features(self, encoded_images: Tensor, encoded_captions: Tensor) -> tuple[Tensor, Tensor]:
        """The projections, of length 1, float32: (N, D), (M, D)."""
        images, captions = self.network.visual_projection(encoded_images), self.network.text_projection(encoded_captions)
        return F.normalize(images.float(), dim=-1), F.normalize(captions.float(), dim=-1)

    @property
    def scale(self) -> Tensor:
        return self.network.logit_scale.float().exp()

    def train_only(self, part: Literal["full", "lora", "head"], rank: int, alpha: float, seed: int) -> dict[str, nn.Parameter]:
        """What is trained, by name: everything; adapters in both towers, the projections and the scale; or the last two."""
        if part == "lora":
            import peft

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_TARGETS)
                self._tuner = peft.LoraModel(self.network, {"default": config}, "default")
        heads = ("visual_projection.", "text_projection.", "logit_scale")
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(part == "full" or name.startswith(heads) or (part == "lora" and ".lora_" in name))
        return {name: parameter for name, parameter in self.network.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def bound_scale(self) -> None:
        """After a step: exp(logit_scale) at most 100."""
        self.network.logit_scale.clamp_(max=torch.tensor(LARGEST_SCALE).log())

    def save(self, folder: Path) -> None:
        """``config.json``, ``model.safetensors``, tokenizer and ``preprocessor_config.json``, all or nothing. Adapters are merged, after
        which nothing of this object is trained any more."""
        if self._tuner is not None:
            self.network, self._tuner = self._tuner.merge_and_unload(), None
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        for piece in (self.network, self.tokenizer, self.processor):
            piece.save_pretrained(part)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)


def image_processor(size: int) -> Any:
    """CLIP's, working on PIL images: transformers 5 has another default, whose results differ by up to 0.17 of the range."""
    try:
        from transformers import CLIPImageProcessorPil as Processor
    except ImportError:  # before version 5 there was this one only
        from transformers import CLIPImageProcessor as Processor
    return Processor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def load(model: str) -> ClipReward:
    """A CLIP of a folder or of the hub. ValueError where it is not there, is no CLIP, or its tokenizer is not its own."""
    from transformers import AutoTokenizer, CLIPModel

    place = Path(model).expanduser()
    if not place.is_dir() and (why := unreachable(model, "config.json", None)):
        raise ValueError(f"'{model}' is no folder here and could not be fetched from the hub: {why}. Name a folder with one")
    place = str(place) if place.is_dir() else model
    try:
        network, tokenizer = CLIPModel.from_pretrained(place).float(), AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ValueError(f"'{model}' could not be loaded as a transformers CLIP: {first_line(error)}") from error
    return ClipReward(network, tokenizer)


def from_scratch(tokenizer: str, sizes: dict[str, int], seed: int) -> ClipReward:
    """A CLIP with random weights around a tokenizer's folder. ValueError for a size that is none of ``SIZES``."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    if unknown := sorted(set(sizes) - set(SIZES)):
        raise ValueError(f"network has no size {', '.join(unknown)}; allowed are {', '.join(SIZES)}")
    words, size = AutoTokenizer.from_pretrained(tokenizer), SIZES | sizes
    text = dict(
        vocab_size=len(words), max_position_embeddings=min(words.model_max_length, 77), hidden_size=size["text_width"],
        intermediate_size=4 * size["text_width"], num_hidden_layers=size["text_layers"], num_attention_heads=size["text_heads"],
        projection_dim=size["projection"],
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    vision = dict(
        image_size=size["image_size"], patch_size=size["patch_size"], hidden_size=size["width"], intermediate_size=4 * size["width"],
        num_hidden_layers=size["layers"], num_attention_heads=size["heads"], projection_dim=size["projection"],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=size["projection"]))
    return ClipReward(network, words)
