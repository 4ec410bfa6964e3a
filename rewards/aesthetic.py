"""LAION's aesthetic predictor v2: an affine map of the CLIP ViT-L/14 embedding of the image; the prompt is not read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffalign.rewards import heads, towers
from diffalign.rewards import weights as files
from diffalign.rewards.base import frozen
from diffalign.rewards.preprocess import OPENAI, PreparedReward
from diffalign.rewards.weights import Source

CLIP = "openai/clip-vit-large-patch14"
FILE = "sac+logos+ava1-l14-linearMSE.pth"
SHA256 = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
HEAD = Source(
    "christophschuhmann/improved-aesthetic-predictor", ((FILE,),),
    url="https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/6934dd81792f086e613a121dbce43082cb8be85e/"
    "sac%2Blogos%2Bava1-l14-linearMSE.pth",
    digest=SHA256,
)  # fmt: skip


class Aesthetic(PreparedReward):
    """score = weight . CLIP(image) / |CLIP(image)| + bias.

    The head's five layers have no activation between them, so that they are one affine map, and its gradient points in one direction
    whatever the image is: the score is easily driven up by what only CLIP sees.
    """

    needs_prompt = False

    def __init__(self, name: str, network: Any, weight: Tensor, bias: Tensor, **base: Any):
        super().__init__(name, OPENAI, network.config.vision_config.image_size, **base)
        self.vision, self.projection, self.weight, self.bias = network.vision_model, network.visual_projection, weight, bias

    def measure(self, batch: Tensor, prompts: list[str]) -> Tensor:
        return heads.apply(self.embed(batch), self.weight, self.bias)

    def measure_matrix(self, batch: Tensor, prompts: list[str]) -> Tensor:
        return self.measure(batch, prompts)[:, None].expand(-1, len(prompts))

    def embed(self, batch: Tensor) -> Tensor:
        """(N, D): the projected embedding of the images at length 1."""
        return towers.unit(self.projection(self.vision(pixel_values=batch.to(self.projection.weight.dtype)).pooler_output))


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype, clip: str | None = None
) -> Aesthetic:
    """The predictor, about 4.5 to 6.8 for generated images.

    Args:
        weights: ``sac+logos+ava1-l14-linearMSE.pth``, or a folder that holds it and may hold CLIP's files too.
        config: a ``CLIPConfig`` or its arguments.
        clip: the folder of ``openai/clip-vit-large-patch14``; without it the weights' folder, else the hub.
    Source: christophschuhmann/improved-aesthetic-predictor simple_inference.py.
    Errors: ValueError for a file under the published name with other contents, for a head with activations (``reluMSE``) or one of another
        width than CLIP's embedding; those of ``weights.Source.find`` and ``weights.build``.

    *Deviates:* float32 throughout, where the published code embeds in float16 on a GPU (the third decimal moves).
    """
    path = HEAD.find(name, weights)[0]
    facts = files.facts(path)
    if path.name == FILE and facts["sha256"] != SHA256:
        raise ValueError(f"{path} has the published name but not the published contents: download it again, or rename a head of your own")
    weight, bias = heads.affine(files.read_state(path), path)
    network, clip_path = towers.load_network(name, CLIP, clip, config, option="clip", beside=path.parent)
    if len(weight) != network.config.projection_dim:
        given = network.config.projection_dim
        raise ValueError(f"{path} takes embeddings of {len(weight)} numbers, and the CLIP of {clip_path} gives {given}")
    provenance = {"weights": facts, "published_head": facts["sha256"] == SHA256, "clip": files.facts(clip_path)}
    return Aesthetic(name, frozen(network, device, dtype), weight.to(device), bias.to(device), device=device, dtype=dtype, **provenance)
