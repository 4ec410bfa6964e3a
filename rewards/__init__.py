"""Rewards: published models and metrics as numbers, ``load_reward("hpsv2.1").score(images, prompts) -> (N,)``.

One file a family; ``TABLE`` says which file an id is loaded from, and nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import Any

import torch

from diffalign.rewards.base import Reward

__all__ = ["TABLE", "Reward", "load_reward", "names"]

# id -> (module of this folder, arguments its ``load`` gets beside the caller's). A module's ``load(name, *, weights, config, device, dtype,
# **options)`` returns a Reward.
TABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "pickscore": ("pickscore", {}),
    "hpsv2": ("hps", {"file": "HPS_v2_compressed.pt"}),
    "hpsv2.1": ("hps", {"file": "HPS_v2.1_compressed.pt"}),
    "hpsv2.1-legacy": ("hps", {"file": "HPS_v2.1_compressed.pt", "antialias": False}),
    "clip-l14": ("clip", {}),
    "clip-b32": ("clip", {}),
    "clip-torchmetrics": ("clip", {}),
    "clip-h14": ("clip", {}),
    "clip-h14-letterbox": ("clip", {}),
    "clip-dfn-h14": ("clip", {}),
    "imagereward": ("imagereward", {}),
    "aesthetic": ("aesthetic", {}),
    "mps": ("mps", {}),
    "hpsv3": ("hpsv3", {}),
    "vqascore": ("clipt5", {}),
    "vqascore-xl": ("clipt5", {}),
    "vqascore-vlm": ("vqascore", {}),
    "jpeg-size": ("jpeg", {}),
    "vlm": ("vlm", {}),
    "unifiedreward": ("vlm", {"form": "unifiedreward"}),
    "unifiedreward-2": ("vlm", {"form": "unifiedreward-2"}),
    "http": ("http", {}),
    "clap": ("clap", {}),
    "lidar-chamfer": ("lidar", {}),
    "lidar-jsd-bev": ("lidar", {}),
    "lidar-jsd-3d": ("lidar", {}),
    "lidar-iou": ("lidar", {}),
    "lidar-emd": ("lidar", {}),
    "lidar-f-score": ("lidar", {}),
}


def names() -> list[str]:
    """The ids ``load_reward`` knows."""
    return list(TABLE)


def load_reward(
    name: str, weights: str | None = None, *, config: Any = None, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Reward:  # fmt: skip
    """A reward by its id, a function of one's own by ``module:attr`` or ``path/to/file.py:attr``, or a reward server by its http address.

    Args:
        weights: a local file or folder in the published checkpoint's own format; without it the published one is looked for in the hub's
            cache and fetched.
        config: another architecture than the published one, for weights of that architecture in the same format.
        options: what the reward's own docstring names (``scale``, ``antialias``, ...).
    Errors: ValueError for an unknown id or option, FileNotFoundError that names the missing file, its source and how to give a local
        copy, ImportError that names the extra.
    """
    if name.startswith(("http://", "https://")):
        module, fixed = "http", {"url": name}
    elif ":" in name:
        module, fixed = "function", {}
    elif name in TABLE:
        module, fixed = TABLE[name]
    else:
        near = difflib.get_close_matches(name, TABLE, n=1)
        meant = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"no reward '{name}'; {meant}known: {', '.join(TABLE)}, and a function of your own as module:attr")
    load = importlib.import_module(f"diffalign.rewards.{module}").load
    allowed, options = inspect.signature(load).parameters, {**fixed, **options}
    if unknown := [option for option in options if option not in allowed]:
        own = sorted(allowed.keys() - {"name", "weights", "config", "device", "dtype"})
        raise ValueError(f"reward '{name}' has no option {', '.join(unknown)}; it has {', '.join(own) or 'none'}")
    given = {"name", "weights", "config", "device", "dtype", *options}
    if lacking := [option for option, about in allowed.items() if about.default is about.empty and option not in given]:
        raise ValueError(f"reward '{name}' needs the option {', '.join(lacking)}")
    return load(name, weights=weights, config=config, device=device, dtype=dtype, **options)
