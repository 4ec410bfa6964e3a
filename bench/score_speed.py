"""The speed of ``diffalign score`` at the size of CLIP ViT-B/32, random weights, as JSON: decoding from disk against the bare forward.

    python -m bench.score_speed [--images 256] [--repeats 5] [--workers 4] [--format png] [--output docs/runs/score_speed.json]

    bare       ``reward.measure`` on batches that are prepared and in memory: the limit
    score      ``score_items`` from files: decoding, hashing, preparing, measuring, an empty cache to be filled
    upstream   one image a call, image and prompt through transformers' processor and network, as the READMEs of PickScore and HPSv2 do it

They run in turns, so that other work on the machine meets all of them; what is reported are medians over the turns of a turn's ratio.
Processor seconds tell the same story without the waiting. ``workers`` compares threads with processes for decoding and preparing alone.
"""

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from diffalign.rewards import images, load_reward
from diffalign.rewards.manifests import collect
from diffalign.rewards.preprocess import TRANSFORMERS
from diffalign.rewards.score import WORKERS, score_items
from diffalign.rewards.score_cache import ScoreCache
from diffalign.worlds import shapes
from diffalign.worlds.shapes import scenes


def write_network(folder: Path) -> Path:
    """CLIP ViT-B/32 as transformers' defaults have it, with the tokenizer of builtin:shapes (whose vocabulary is smaller: a look-up)."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(shapes.MODEL / "tokenizer_2")
    text = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    CLIPModel(CLIPConfig(text_config=text)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_images(folder: Path, count: int, side: int, kind: str) -> None:
    """Smooth random pictures with a little grain, which files and decoders treat like pictures and not like noise."""
    rng = random.Random(0)
    folder.mkdir()
    for i, prompt in enumerate(scenes.prompts("test", min(count, 256))):
        large = Image.frombytes("RGB", (12, 12), rng.randbytes(432)).resize((side, side), Image.Resampling.BICUBIC)
        grain = Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side))
        Image.blend(large, grain, 0.04).save(folder / f"{i:05d}.{kind}")
        (folder / f"{i:05d}.txt").write_text(prompt)


def prepared(path: Path) -> torch.Tensor:
    return TRANSFORMERS(images.read(path))


def timed(run) -> tuple[float, float]:
    """(seconds, processor seconds) of ``run``."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--format", choices=["png", "jpg"], default="png")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--upstream-images", type=int, default=64, help="of the images, those the slow pattern is timed on")
    parser.add_argument("--output")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder / "images", args.images, args.side, args.format)
        reward = load_reward("pickscore", str(write_network(folder / "clip")))
        found = measure(args, folder, reward)
    print(json.dumps(found, indent=1))
    if args.output:
        Path(args.output).write_text(json.dumps(found, indent=1) + "\n")


def measure(args, folder: Path, reward) -> dict:
    items = collect([folder / "images"])
    paths, prompts = [item.sample.path for item in items], [item.prompt for item in items]
    batches = [torch.stack([prepared(path) for path in paths[at : at + args.batch_size]]) for at in range(0, len(paths), args.batch_size)]
    scored = []

    @torch.no_grad()
    def bare():
        for k, batch in enumerate(batches):
            reward.measure(batch, prompts[k * args.batch_size : (k + 1) * args.batch_size])

    def score():
        with tempfile.TemporaryDirectory() as place:
            cache = ScoreCache(place)
            options = dict(cache=cache, batch_size=args.batch_size, workers=args.workers, quiet=True)
            scored.append(score_items(items, {"pickscore": reward}, **options))
            cache.close()

    network, tokenizer = reward.towers.network, reward.towers.tokenizer.tokenizer
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil()

    @torch.no_grad()
    def upstream():
        for path, prompt in zip(paths[: args.upstream_images], prompts, strict=False):
            pixels = processor(Image.open(path), return_tensors="pt").pixel_values
            ids = tokenizer(prompt, padding=True, truncation=True, max_length=77, return_tensors="pt").input_ids
            image, text = network.get_image_features(pixels).pooler_output, network.get_text_features(ids).pooler_output
            (network.logit_scale.exp() * torch.cosine_similarity(image, text)).item()

    runs = {"bare": bare, "score": score, "upstream": upstream}
    counts = {"bare": len(paths), "score": len(paths), "upstream": min(args.upstream_images, len(paths))}
    for run in (bare, score):
        run()  # once for the caches of the machine
    times = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            wall, processor_seconds = timed(run)
            times[name].append((wall / counts[name], processor_seconds / counts[name]))
    exact = max(abs(a - b) for a, b in zip(scored[-1].scores["pickscore"], reward.score(paths, prompts).tolist(), strict=True))

    def ratio(name: str, k: int) -> float:
        """How fast ``name`` is beside the bare forward, in the median turn."""
        return round(statistics.median(b[k] / other[k] for b, other in zip(times["bare"], times[name], strict=True)), 3)

    return {
        "what": "scoring images from disk against the bare batched forward, CLIP ViT-B/32 with random weights, float32, CPU",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, other work on the cores",
        "images": len(paths), "side": args.side, "format": args.format, "batch_size": args.batch_size, "workers": args.workers,
        "repeats": args.repeats,
        "images_per_second": {name: round(1 / statistics.median(wall for wall, _ in rows), 2) for name, rows in times.items()},
        "cpu_seconds_per_image": {name: round(statistics.median(cpu for _, cpu in rows), 4) for name, rows in times.items()},
        "rate_beside_bare": {name: ratio(name, 0) for name in ("score", "upstream")},
        "rate_beside_bare_by_cpu_seconds": {name: ratio(name, 1) for name in ("score", "upstream")},
        "score_beside_upstream": round(statistics.median(u[0] / s[0] for u, s in zip(times["upstream"], times["score"], strict=True)), 2),
        "turns": {name: [round(wall * counts[name], 2) for wall, _ in rows] for name, rows in times.items()},
        "decoded": scored[-1].decoded, "two_rewards_decoded": twice(items, reward).decoded,
        "largest_difference_to_score": exact,
        "workers_compared": {"what": "images decoded and prepared a second, nothing else, 2 workers", **compare_workers(paths)},
    }  # fmt: skip


def twice(items, reward):
    """The pass over the first 64 images for two rewards."""
    return score_items(items[:64], {"pickscore": reward, "clip": reward}, quiet=True)


def compare_workers(paths: list[Path]) -> dict[str, float]:
    """Medians of five turns; the processes are started and have imported torch before."""
    rates = {"threads": [], "processes": []}
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2) as processes:
        list(processes.map(prepared, paths[:8]))
        for _ in range(5):
            for name, pool in (("threads", threads), ("processes", processes)):
                seconds, _ = timed(lambda pool=pool: list(pool.map(prepared, paths)))
                rates[name].append(len(paths) / seconds)
    return {name: round(statistics.median(values), 1) for name, values in rates.items()}


if __name__ == "__main__":
    main()
