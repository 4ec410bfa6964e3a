"""LPIPS (arXiv:1801.03924) as an embedding: the squared distance of two embeddings is LPIPS, so k images need k passes, not k (k - 1).

    LPIPS(x, y) = sum over layers l, mean over places hw, of sum_c w_lc (f_lc(x) - f_lc(y))^2,   f the layer's features at length 1
                = |phi(x) - phi(y)|^2,   phi = all of sqrt(w_lc / HW_l) f_lc, as the published weights w are not negative

Sources: richzhang/PerceptualSimilarity lpips/lpips.py; version 0.1 of the weights w, which torchmetrics' package brings; the networks under
them are torchvision's, trained on ImageNet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffalign.eval.distances.inception import published
from diffalign.extras import require
from diffalign.rewards import weights as files
from diffalign.rewards.base import frozen

# name -> torchvision's model, its weights, and behind which of its layers features are taken
NETWORKS = {
    "alex": ("alexnet", "AlexNet_Weights", (1, 4, 7, 9, 11)),
    "squeeze": ("squeezenet1_1", "SqueezeNet1_1_Weights", (1, 4, 7, 9, 10, 11, 12)),
    "vgg": ("vgg16", "VGG16_Weights", (3, 8, 15, 22, 29)),
}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1]
SMALLEST = 32  # pixels a side, so that every layer has a place left


class LPIPS(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, D) embeddings whose squared distances are LPIPS. D grows with the images: about 10 H W for ``alex``."""

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...], heads: list[Tensor], settings: dict[str, Any]):
        """features: the network's convolutional part; taps: its layers; heads: (C_l,) of each, not negative."""
        super().__init__()
        self.features, self.taps, self.settings = features[: max(taps) + 1], taps, settings
        self.heads = nn.ParameterList(heads)
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        x, found = (2 * pixels.to(self.shift) - 1 - self.shift) / self.scale, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                length = x.square().sum(1, keepdim=True).sqrt() + 1e-10
                weight = (self.heads[len(found)] / x[0, 0].numel()).sqrt().view(-1, 1, 1)
                found.append((x / length * weight).flatten(1))
        return torch.cat(found, dim=1)


@torch.no_grad()
def lpips(network: LPIPS, x: Tensor, y: Tensor) -> Tensor:
    """(N,) LPIPS of pairs; x, y: (N, 3, H, W) in [0, 1]."""
    return (network(x) - network(y)).square().sum(1)


def load_lpips(name: str = "alex", weights: str | None = None, *, device: Any = "cpu", dtype: torch.dtype = torch.float32) -> LPIPS:
    """LPIPS on AlexNet (the default of the published code), SqueezeNet or VGG.

    Args:
        weights: torchvision's checkpoint of the network (``alexnet-owt-7be5be79.pth``), or a folder that holds it; without it torch.hub's
            copy, else fetched.
    Errors: ValueError for another name, or weights that do not fit; FileNotFoundError that names the file; ImportError without torchvision
        or torchmetrics.

    Not compared with published values, as no trained network was at hand: the tests have random ones, with the published w.
    """
    if name not in NETWORKS:
        raise ValueError(f"no LPIPS on '{name}'; known: {', '.join(NETWORKS)}")
    architecture, published_weights, taps = NETWORKS[name]
    models = require("torchvision.models", extra="eval")
    url = models.get_weight(f"{published_weights}.IMAGENET1K_V1").url
    path = published(f"lpips-{name}", url, weights)
    state = {key: value for key, value in files.read_state(path).items() if key.startswith("features.")}
    network = files.build(lambda: nn.ModuleDict({"features": models.get_model(architecture, weights=None).features}), state, path)
    heads = read_heads(name, len(taps))
    settings = {"network": architecture, "weights": files.facts(path), "heads": "0.1"}
    return frozen(LPIPS(network["features"], taps, heads, settings), device, dtype)


def read_heads(name: str, layers: int) -> list[Tensor]:
    """The published w of each layer, (C_l,), from torchmetrics' package. ValueError where they are not as they must be."""
    package = Path(require("torchmetrics", extra="eval").__file__).parent
    path = package / "functional" / "image" / "lpips_models" / f"{name}.pth"
    state = files.read_state(path)
    heads = [state[f"lin{i}.model.1.weight"].flatten() for i in range(layers)]
    if any((head < 0).any() for head in heads):
        raise ValueError(f"{path} holds negative weights, so LPIPS is no squared distance: this is not the published file")
    return heads
