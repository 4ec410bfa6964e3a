"""From prompts to token ids, with the checks that a silent mistake would need."""

import logging

import torch

log = logging.getLogger(__name__)

SMALLEST_VOCABULARY = 256  # every byte-level vocabulary holds at least the bytes


def check_tokenizer(tokenizer, encoder, name: str) -> None:
    """Refuse a tokenizer that came up empty (transformers 5 builds one silently when its files are missing) or that does not fit.

    Errors: ValueError that names the tokenizer, its size and what its text encoder expects.
    """
    size, expected = len(tokenizer), encoder.config.vocab_size
    if size < SMALLEST_VOCABULARY or size > expected:
        raise ValueError(
            f"{name} has a vocabulary of {size} entries, its text encoder was built for {expected}: "
            f"its files (vocab.json and merges.txt, or tokenizer.json) are missing or belong to another model; download the model again"
        )


def tokenize(prompts: list[str], tokenizers: list, encoders: list) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """Token ids and attention masks, (N, L) int64 each, one per tokenizer, padded to L; and how many prompts were cut to fit.

    L is the tokenizer's own ``model_max_length``, never more than its text encoder has positions for.
    """
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"prompts must be a list of strings, got {prompts!r}: write [prompt] for a single one")
    ids, masks, cut = [], [], set()
    for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
        length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        whole = tokenizer(prompts, verbose=False).input_ids
        cut |= {i for i, tokens in enumerate(whole) if len(tokens) > length}
        batch = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        device = next(encoder.parameters()).device
        ids.append(batch.input_ids.to(device))
        masks.append(batch.attention_mask.to(device))
    return ids, masks, len(cut)
