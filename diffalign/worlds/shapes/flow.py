"""What ``builtin:shapes-flow`` takes over from ``builtin:shapes``, so that no bytes ship twice: text encoders and tokenizers.

Stable Diffusion 3 wants a projection of both CLIP encoders, and SDXL's first has none: its projection is zeros here, so the pooled state is
the second encoder's alone. The hidden states are those of both, as they were trained with the UNet.
"""

from typing import Any

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffalign.worlds.shapes import MODEL


def text_parts() -> dict[str, Any]:
    """The components by the names of ``StableDiffusion3Pipeline``."""
    plain = CLIPTextModel.from_pretrained(MODEL / "text_encoder").float()
    first = CLIPTextModelWithProjection(plain.config).float().eval()
    first.text_model.load_state_dict({key.removeprefix("text_model."): value for key, value in plain.state_dict().items()})
    torch.nn.init.zeros_(first.text_projection.weight)
    return {
        "text_encoder": first,
        "text_encoder_2": CLIPTextModelWithProjection.from_pretrained(MODEL / "text_encoder_2").float(),
        "tokenizer": CLIPTokenizer.from_pretrained(MODEL / "tokenizer"),
        "tokenizer_2": CLIPTokenizer.from_pretrained(MODEL / "tokenizer_2"),
    }
