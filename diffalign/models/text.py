"""From prompts to token ids, with the checks that a silent mistake would need."""

import torch

SMALLEST_VOCABULARY = 256  # every byte-level vocabulary holds at least the bytes


def check_tokenizer(tokenizer, encoder, name: str) -> None:
    """Refuse a tokenizer that came up empty (transformers 5 builds one silently when its files are missing) or that does not fit.

    Errors: ValueError that names the tokenizer, its size and what its text encoder expects.
    """
    size, expected = len(tokenizer), encoder.config.get_text_config().vocab_size
    if size < SMALLEST_VOCABULARY or size > expected:
        raise ValueError(
            f"{name} has a vocabulary of {size} entries, its text encoder was built for {expected}: its files (vocab.json and merges.txt, "
            f"tokenizer.json, or spiece.model, which needs the package sentencepiece) are missing or belong to another model; "
            f"download the model again"
        )


def own_length(tokenizer, encoder) -> int:
    """The tokenizer's own ``model_max_length``, never more than its text encoder has positions for."""
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)


def tokenize(
    prompts: list[str], tokenizers: list, encoders: list, lengths: list[int]
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[set[int]]]:
    """Per tokenizer: token ids and attention masks, (N, L) int64 each, padded to its length L; and which prompts were cut to fit."""
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"prompts must be a list of strings, got {prompts!r}: write [prompt] for a single one")
    ids, masks, cut = [], [], []
    for tokenizer, encoder, length in zip(tokenizers, encoders, lengths, strict=True):
        whole = tokenizer(prompts, verbose=False).input_ids
        cut.append({i for i, tokens in enumerate(whole) if len(tokens) > length})
        batch = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        device = next(encoder.parameters()).device
        ids.append(batch.input_ids.to(device))
        masks.append(batch.attention_mask.to(device))
    return ids, masks, cut


def in_rows(states: list[torch.Tensor], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States (l_i, D) of N prompts of their own lengths, as (N, length, D) with zeros behind them, and their mask (N, length) int64."""
    rows = states[0].new_zeros(len(states), length, states[0].shape[-1])
    mask = torch.zeros(len(states), length, dtype=torch.int64, device=rows.device)
    for i, row in enumerate(states):
        rows[i, : len(row)], mask[i, : len(row)] = row, 1
    return rows, mask
