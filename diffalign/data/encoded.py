"""One record as a model sees it."""

from dataclasses import dataclass

import torch

from diffalign.data.records import Record


@dataclass(frozen=True)
class Encoded:
    """One record of k images: 1 for a label, 2 for a pair (chosen first), k for a ranking, in the record's order.

    mean, std       (k, C, h, w) float32, moments of the VAE posterior, already scaled
    text            name -> (k, ...), what ``encode_prompts`` gave for the caption of each image
    original_size, crop, target_size   (k, 2) int64, (height, width) or (top, left) in pixels: SDXL's micro-conditioning
    mask            (h, w) float32 in [0, 1], how much each latent counts, for all images of the record; None where it has no mask
    """

    record: Record
    mean: torch.Tensor
    std: torch.Tensor
    text: dict[str, torch.Tensor]
    original_size: torch.Tensor
    crop: torch.Tensor
    target_size: torch.Tensor
    mask: torch.Tensor | None = None
