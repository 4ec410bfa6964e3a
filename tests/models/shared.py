"""What several tests of models need."""

import torch

from diffalign.models import DiffusionModel

PROMPTS = ["a large red circle above a small blue square", "a green triangle"]


CLASSES = ["tench", "7"]


def inputs(model: DiffusionModel, seed: int = 0, prompts: list[str] | None = None):
    """(x_t, t, conditioning) for two samples."""
    prompts = prompts or (CLASSES if model.family.startswith("dit") else PROMPTS)
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(len(prompts), *model.latent_shape(16, 16), generator=generator)
    sizes = torch.tensor([[16, 16], [20, 32]])
    conditioning = model.encode_prompts(prompts) | model.size_conditioning(sizes, torch.tensor([[0, 0], [2, 3]]), sizes)
    return x_t, model.path.at(torch.tensor([17.0, 640.0])), conditioning


def jolt(denoiser: torch.nn.Module, seed: int = 1, size: float = 0.1) -> None:
    """Stand-in for optimizer steps: noise on every trainable parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)


def unused(kind: str, name: str) -> bool:
    """What the network computes and throws away: SD3's last block drops the text stream's queries, Qwen-Image's all that this stream
    becomes; a key's bias cancels in the softmax."""
    last = {"sd3": ("add_q_proj", "norm_added_q"), "qwen": ("add_q_proj", "norm_added_q", "to_add_out", "txt_mlp")}
    dropped = next((parts for family, parts in last.items() if kind.startswith(family)), ())
    return ("transformer_blocks.1." in name and any(part in name for part in dropped)) or name.endswith(("to_k.bias", "add_k_proj.bias"))
