"""Tiny language models of real classes with random weights, tokenizers of characters and of merges, and pairs to train on."""

import json
import random
from pathlib import Path

import torch

CHARACTERS = "abcdefghijklmnopqrstuvwxyz .?!:\n"
CHAT = (
    "{% for m in messages %}{{ '<' + m['role'][0] + '>' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
)
SPECIAL = ["<pad>", "<bos>", "</s>", "<s>", "<u>", "<a>", "<t>"]


def tokenizer(chat: str | None = CHAT, bos: bool = True, merges: tuple[tuple[str, str], ...] = (), eos: str | None = "</s>"):
    """One token a character of CHARACTERS, and one more for each of ``merges``; ``<bos>`` in front where ``bos``."""
    from tokenizers import Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *CHARACTERS, *(a + b for a, b in merges)]
    vocabulary = {word: i for i, word in enumerate(words)}
    raw = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<pad>"))
    raw.decoder = decoders.Fuse()
    if bos:
        raw.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])])
    made = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token=eos, model_max_length=64)
    made.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    made.chat_template = chat
    return made


def config(kind: str = "llama", **changes):
    """A config of 2 layers and width 16 for 64 positions."""
    import transformers

    size = dict(vocab_size=len(SPECIAL) + len(CHARACTERS) + 1, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    common = dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64
    )
    if kind == "gpt2":
        return transformers.GPT2Config(**size, n_embd=16, n_layer=2, n_head=2, n_positions=64, **changes)
    classes = {"llama": "Llama", "gemma2": "Gemma2", "cohere": "Cohere", "granite": "Granite", "qwen2": "Qwen2"}
    return getattr(transformers, f"{classes[kind]}Config")(**size, **common, **changes)


def build(folder: Path, kind: str = "llama", seed: int = 0, **changes) -> Path:
    """Save a model with weights that are large enough to tell its logits apart, and the tokenizer."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        lm = AutoModelForCausalLM.from_config(config(kind, **changes))
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    lm.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def sentence(rng: random.Random, length: int) -> str:
    return "".join(rng.choice(CHARACTERS[:26]) for _ in range(length))


def rows(count: int, seed: int = 0) -> list[dict]:
    """Plain pairs of various lengths; pairs 2k and 2k + 1 share a prompt."""
    rng = random.Random(seed)
    prompts = [sentence(rng, 4 + i % 3) + "?" for i in range(count)]
    return [
        {"id": f"pair-{i}", "prompt": prompts[i // 2], "chosen": " " + sentence(rng, 3 + i % 4), "rejected": " " + sentence(rng, 2 + i % 5)}
        for i in range(count)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
