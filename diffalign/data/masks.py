"""The region of a record that counts: one mask over all its images, cut as they are and averaged to the size of their latents."""

from collections.abc import Sequence

import torch
from PIL import Image as PILImage
from torch.nn.functional import adaptive_avg_pool2d

from diffalign.data.geometry import Plan, View, cut_out
from diffalign.data.image import Image
from diffalign.data.keys import content_key

ROUNDING = 1  # pixels by which sides of the same proportions may differ once they are scaled


def mask_view(plan: Plan, mask: Image, views: Sequence[View], uniforms: Sequence[float], id: str) -> View:
    """What is done to a record's mask: what is done to its images, whose ``views`` are given.

    Raises ValueError, naming the record, where mask and images, scaled to cover the target, are not of one size: then there is no one
    region that the mask could mean.
    """
    view = plan.views(views[0].original, mask.size, uniforms=uniforms)[1]
    for other in views:
        if any(abs(own - its) > ROUNDING for own, its in zip(view.resized, other.resized, strict=True)):
            sizes = " and ".join(f"{height} x {width}" for height, width in dict.fromkeys(view.original for view in views))
            raise ValueError(
                f"the mask of {id} ({mask.name}) is {mask.size[0]} x {mask.size[1]} and its images are {sizes}: a mask and all images of a "
                "record must have the same proportions. Make the mask anew, or leave it out."
            )
    return view


def at_latent_size(mask: Image, view: View, size: tuple[int, int], id: str) -> torch.Tensor:
    """(h, w) float32 in [0, 1]: how much of the pixels of each latent is white, on average over their area.

    Args:
        size: (h, w) of the latents of the view's target.

    Raises ValueError, naming the record, for a mask that cannot be read or of which nothing is left within the view.
    """
    pixels = cut_out(mask.load().convert("L"), view, PILImage.Resampling.BOX)  # white on a transparent ground is white, as everywhere
    weights = adaptive_avg_pool2d(torch.from_numpy(pixels).to(torch.float32)[None] / 255, tuple(size))[0]
    if not weights.any():
        raise ValueError(
            f"the mask of {id} ({mask.name}) is black wherever the record's images are looked at, so nothing of them would count: "
            "leave the record out, mend its mask, or leave the mask out (then everything counts)."
        )
    return weights


def mask_key(mask: Image, view: View, size: tuple[int, int]) -> str:
    """The key of ``at_latent_size`` in a cache."""
    return content_key("mask", mask.digest, view.resized, view.corner, view.target, view.flip, *size)
