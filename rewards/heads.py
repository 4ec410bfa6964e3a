"""The head the aesthetic predictor and ImageReward share: five linear layers with nothing between them, as the one affine map they are.

In evaluation mode the dropouts between the layers do nothing, so head(x) = W5(W4(... x)) + ... = weight . x + bias.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

LAYERS = (0, 2, 4, 6, 7)  # of the Sequential; dropouts lie between


def affine(state: dict[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    """``layers.{0,2,4,6,7}.{weight,bias}`` -> weight (D,), bias (), float64, the product of all layers.

    Errors: ValueError where other names are in the file: a head with activations (the predictor's ``reluMSE`` file) has its layers at
    other places, and is no affine map.
    """
    wanted = {f"layers.{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}
    if wanted != state.keys():
        raise ValueError(
            f"{path} is not the head without activations (layers.{{0,2,4,6,7}}): missing {sorted(wanted - state.keys())}, unexpected "
            f"{sorted(state.keys() - wanted)}; the file with 'linearMSE' in its name is the one that is read"
        )
    weight, bias = state["layers.0.weight"].double(), state["layers.0.bias"].double()
    for layer in LAYERS[1:]:
        further = state[f"layers.{layer}.weight"].double()
        weight, bias = further @ weight, further @ bias + state[f"layers.{layer}.bias"].double()
    return weight.squeeze(0), bias.squeeze(0)


def apply(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, D) -> (N,), in the features' precision and no less than float32."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features @ weight.to(features) + bias.to(features)
