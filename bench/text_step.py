"""TRL's DPOTrainer and ours side by side: the same model, pairs and settings, each in a process of its own; tokens a second, peak memory.

    python -m bench.text_step [--steps 4] [--threads 2] [--output docs/runs/text_step.json]

A Llama of 4 layers, width 128 and 32,000 tokens with random weights; 4 pairs a step, prompts of 256 and responses of 256 tokens; float32,
all weights trained, a copy as the reference, every step logged. A step lasts from the beginning of one loss to the beginning of the next,
so it has everything in it that a trainer does. TRL runs as it is configured by default but for bf16, which is switched off, and once
more without gradient checkpointing. Needs trl (not a dependency).
"""

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS, PROMPT, RESPONSE, PAIRS = 32_000, 256, 256, 4
TOKENS = 2 * PAIRS * (PROMPT + RESPONSE)  # of a step
TRAINERS = ("diffalign", "diffalign-precomputed", "trl", "trl-no-checkpointing")
LEARNING_RATE, BETA = 1e-4, 0.1


def write_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<eos>", "<pad>", *(f"w{i}" for i in range(3, WORDS))]  # a special token must not be the beginning of a word
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=PROMPT + RESPONSE, tie_word_embeddings=False, bos_token_id=None, eos_token_id=1, pad_token_id=2,
        )  # fmt: skip
    ).save_pretrained(folder)


def write_pairs(path: Path) -> None:
    """As many pairs as a step has, so that every step sees all of them, whatever the order."""
    rng = random.Random(0)

    def words(count):
        return " ".join(f"w{rng.randrange(3, WORDS)}" for _ in range(count))

    rows = [{"prompt": words(PROMPT), "chosen": " " + words(RESPONSE - 1), "rejected": " " + words(RESPONSE - 1)} for _ in range(PAIRS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Clock:
    """Wall and processor seconds between calls."""

    def __init__(self):
        self.marks, self.losses = [], []

    def mark(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def steps(self) -> tuple[list[float], list[float]]:
        return tuple([b[i] - a[i] for a, b in zip(self.marks, self.marks[1:], strict=False)] for i in (0, 1))


def run_ours(folder: Path, steps: int, precompute: bool) -> Clock:
    from diffalign.llm.command import TextConfig
    from diffalign.llm.setup import build
    from diffalign.train.loop import run

    clock, output = Clock(), folder / f"ours-{precompute}"

    def timed(*args, **kwargs):
        parts = build(*args, **kwargs)
        measure = parts.measure

        def marked(*args):
            clock.mark()
            return measure(*args)

        parts.measure = marked
        return parts

    config = TextConfig(
        model=str(folder / "model"), data=str(folder / "pairs.jsonl"), output_dir=str(output), train="full", beta=BETA,
        learning_rate=LEARNING_RATE, lr_scheduler="constant", adam_weight_decay=0.0, train_batch_size=PAIRS, max_train_steps=steps + 1,
        held_out=0.0, num_validation_samples=0, validation_steps=10**6, checkpointing_steps=10**6, logging_steps=1, device="cpu",
        precompute_ref_log_probs=precompute,
    )  # fmt: skip
    run(config.resolved(), timed, quiet=True)
    clock.losses = [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    return clock


def run_trl(folder: Path, steps: int, checkpointing: bool) -> Clock:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    clock = Clock()

    class Timed(DPOTrainer):
        def compute_loss(self, *args, **kwargs):
            clock.mark()
            loss = super().compute_loss(*args, **kwargs)
            clock.losses.append(float(loss.detach()))
            return loss

    args = DPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=PAIRS, max_steps=steps + 1, learning_rate=LEARNING_RATE, beta=BETA,
        lr_scheduler_type="constant", weight_decay=0.0, bf16=False, use_cpu=True, logging_steps=1, save_strategy="no", report_to="none",
        gradient_checkpointing=checkpointing, max_length=PROMPT + RESPONSE, disable_tqdm=True,
    )  # fmt: skip
    trainer = Timed(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"), args=args,
        train_dataset=load_dataset("json", data_files=str(folder / "pairs.jsonl"), split="train", cache_dir=str(folder / "cache")),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    )  # fmt: skip
    trainer.train()
    return clock


def child(name: str, folder: Path, steps: int, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    clock = run_trl(folder, steps, name == "trl") if name.startswith("trl") else run_ours(folder, steps, name.endswith("precomputed"))
    wall, processor = clock.steps()
    found = {
        "step_seconds": [round(s, 3) for s in wall], "processor_seconds": [round(s, 3) for s in processor],
        "tokens_per_second": round(TOKENS / statistics.median(wall), 1),
        "tokens_per_processor_second": round(TOKENS / statistics.median(processor), 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3), "losses": clock.losses,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="timed steps, after one that is not")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], Path(args.child[1]), args.steps, args.threads)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {}
        write_model(folder / "model")
        write_pairs(folder / "pairs.jsonl")
        for trainer in TRAINERS:
            command = [sys.executable, "-m", "bench.text_step", "--child", trainer, name, "--steps", str(args.steps)]
            load = os.getloadavg()[0]
            subprocess.run([*command, "--threads", str(args.threads)], check=True, env={**os.environ, "OMP_NUM_THREADS": str(args.threads)})
            found[trainer] = json.loads((folder / f"{trainer}.json").read_text()) | {"load_before": round(load, 2)}
            print(trainer, found[trainer], flush=True)
    import torch
    import transformers
    import trl

    ours = found["diffalign"]
    ratios = {
        other: {
            "tokens_per_second": round(ours["tokens_per_second"] / found[other]["tokens_per_second"], 2),
            "tokens_per_processor_second": round(ours["tokens_per_processor_second"] / found[other]["tokens_per_processor_second"], 2),
            "peak_memory": round(ours["peak_gib"] / found[other]["peak_gib"], 3),
            "largest_loss_difference": max(abs(a - b) for a, b in zip(ours["losses"], found[other]["losses"], strict=True)),
        }
        for other in TRAINERS[2:]
    }
    result = {
        "what": "DPO, float32, full, reference copy: Llama of 4 layers, width 128, 32,000 tokens; 4 pairs of 256 + 256 tokens a step",
        "machine": f"{platform.machine()}, {args.threads} threads of {os.cpu_count()} cores", "tokens_a_step": TOKENS,
        "versions": {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "ours_over": ratios, **found,
    }  # fmt: skip
    print(json.dumps(ratios, indent=1))
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
