"""The recipe of ``builtin:sums``: how the shipped model was trained, from nothing but worked sums with mistakes.

    python -m diffalign.worlds.sums.recipe base runs/sums        a Llama of 0.4 million parameters and its tokenizer
    python -m diffalign.worlds.sums.recipe pack runs/sums        into the package

Each mistake of ``problems.worked`` is in the training answers at a stated rate (``PHASES``), so the model, which learns what it is told,
makes them itself: first it learns to work sums, then, for a quarter as long, to forget a carry more often than not. So it is wrong whether
one samples it or takes its likeliest tokens. Only problems of the ``train`` split are shown.
"""

import json
import math
import random
import shutil
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diffalign.worlds.sums import ASSETS, problems

# Steps, learning rate and how often each mistake is made; a phase goes on from the weights that the one before it ended with.
PHASES = (
    (1600, 3e-3, {"carry": 0.20, "nine": 0.60, "slip": 0.08, "swap": 0.10}),
    (400, 1e-3, {"carry": 0.55, "nine": 0.55, "slip": 0.06, "swap": 0.08}),
)
CHARACTERS = "0123456789+-=;"
SPECIAL = ("<pad>", "<bos>", "<eos>")
LONGEST = 64  # positions


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, ``<bos>`` before every text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", model_max_length=LONGEST
    )


def build_model(tokenizer) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=LONGEST, tie_word_embeddings=True, attention_dropout=0.0,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    )


def train_base(folder: Path, phase: int = 0, batch: int = 64, seed: int = 0) -> dict:
    """Cross-entropy of the answer's tokens, <eos> among them; AdamW, cosine; saves ``folder/base-PHASE`` in half precision."""
    steps, learning_rate, mistakes = PHASES[phase]
    torch.manual_seed(seed + phase)
    rng, tokenizer, start, average = random.Random(seed + phase), build_tokenizer(), time.time(), 0.0
    model = build_model(tokenizer)
    if phase:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(folder / f"base-{phase - 1}", dtype=torch.float32).state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, i / 100) * (0.5 + 0.5 * math.cos(math.pi * i / steps)))
    for step in range(steps):
        shown = [problems.random_problem(rng, "train") for _ in range(batch)]
        texts = [problem.prompt + problems.worked(problem, rng, mistakes) + "<eos>" for problem in shown]
        rows = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        ids, mask = rows["input_ids"], rows["attention_mask"].bool()
        mask[:, : 1 + len(shown[0].prompt)] = False  # <bos> and the prompt are given, not learned
        logits = model(input_ids=ids[:, :-1]).logits
        loss = F.cross_entropy(logits[mask[:, 1:]], ids[:, 1:][mask[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average = 0.98 * average + 0.02 * loss.item() if step else loss.item()
        if step % 100 == 0 or step == steps - 1:
            print(f"base {step} loss {average:.4f} {time.time() - start:.0f} s", flush=True)
    model.half().save_pretrained(folder / f"base-{phase}")
    tokenizer.save_pretrained(folder / f"base-{phase}")
    return {
        "steps": steps, "batch": batch, "learning_rate": learning_rate, "seconds": round(time.time() - start),
        "final_loss": round(average, 4), "parameters": sum(p.numel() for p in model.parameters()), "mistakes": mistakes,
    }  # fmt: skip


def pack(folder: Path) -> list[dict]:
    """The finished base into the package, with the facts of its training."""
    shutil.rmtree(ASSETS / "model", ignore_errors=True)
    shutil.copytree(folder / f"base-{len(PHASES) - 1}", ASSETS / "model")
    facts = [json.loads((folder / f"base-{i}.json").read_text()) for i in range(len(PHASES))]
    (ASSETS / "recipe.json").write_text(json.dumps(facts, indent=1))
    return facts


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("base", "pack"):
        sys.exit("usage: python -m diffalign.worlds.sums.recipe base|pack FOLDER")
    stage, folder = sys.argv[1], Path(sys.argv[2])
    if stage == "base":
        for phase in range(len(PHASES)):
            (folder / f"base-{phase}.json").write_text(json.dumps(train_base(folder, phase)))
    else:
        print(json.dumps(pack(folder), indent=1))


if __name__ == "__main__":
    main()
