"""Small questions about a model's parts: its content, its dtype, a copy elsewhere."""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn


def fingerprint(module: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 of a module's tensors: names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Within it a damaged safetensors file is a ValueError that names ``path``."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"'{path}' is damaged or no .safetensors file ({error}): fetch or write it again") from error


def dtype_name(module: nn.Module) -> str:
    return str(next(module.parameters()).dtype).removeprefix("torch.")


def alike(part: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A component on ``device`` in ``dtype``: itself where it is already, else a copy, so that the model's own stays as it is."""
    if not isinstance(part, nn.Module):
        return part
    weight = next(part.parameters())
    return part if (weight.device, weight.dtype) == (device, dtype) else copy.deepcopy(part).to(device, dtype)
