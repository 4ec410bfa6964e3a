"""An evaluation with pictures on a disk, made by hand, for the tests of the page."""

import hashlib
from pathlib import Path

from PIL import Image, ImageDraw

from diffalign.eval.evaluation import Evaluation
from diffalign.eval.pages.content import Curve
from diffalign.eval.results import CategoryResult, ComparisonResult, ModelResult, Prompts, Ranking, Rating, Sample

COLOURS, SHAPES = ("red", "green", "blue", "orange", "purple"), ("circle", "square", "triangle")


def share(*parts) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6], "big") / 2**48


def draw(path: Path, colour: str, shape: str, side: int, shift: float) -> None:
    image = Image.new("RGB", (side, side), "#eef2f4")
    box = [side * (0.2 + 0.1 * shift), side * 0.22, side * (0.65 + 0.1 * shift), side * 0.72]
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) / 2, box[1])], fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def made(folder: Path, *, models=("aligned",), prompts=40, side=32, flagged=2, **changes) -> Evaluation:
    """Results of ``models`` against "base" on ``prompts`` x 2 pictures in ``folder``, two rewards; the scores follow from names."""
    rewards, names, samples = ("judge", "sharpness"), ("base", *models), []
    for number in range(prompts):
        colour, shape = COLOURS[number % 5], SHAPES[number % 3]
        prompt = f"a large {colour} {shape} left of a small white square, number {number}"
        for index in range(2):
            images, scores = {}, {}
            for name in names:
                images[name] = f"images/{name}/{number:03d}-{index}.png"
                good = share(name, number, index) < (0.55 if name == "base" else 0.8)
                draw(folder / images[name], colour if good else "#888888", shape, side, share(number, index, name))
                scores[name] = {
                    "judge": round(0.5 * good + 0.4 * share("judge", name, number // 7, index), 3),
                    "sharpness": round(3 + share("sharp", name, number, index), 3),
                }
            samples.append(Sample(f"p{number:03d}", prompt, shape, index, 1000 + number, images, scores))
    comparisons = [row for model in models for row in (counted(samples, model, reward, prompts) for reward in rewards)]
    categories = [
        CategoryResult(model, "judge", shape, row.win_rate, row.interval, row.wins, row.ties, row.losses)
        for model in models
        for shape in SHAPES
        for row in [counted([sample for sample in samples if sample.category == shape], model, "judge", prompts // 3)]
    ]
    findings = [
        {"name": "held-out reward", "what": "share of held-out rewards that fall", "value": 0.5, "threshold": 0.5, "flagged": flagged > 0,
         "note": "sharpness falls while judge rises"},
        {"name": "saturation drift", "what": "mean saturation minus the baseline's, in its standard deviations", "value": 1.62,
         "threshold": 0.8, "flagged": flagged > 1, "note": ""},
        {"name": "prompt-shuffle gap", "what": "how much of the gap between right and shuffled prompts is left", "value": 0.97,
         "threshold": 0.7, "flagged": False, "note": ""},
        {"name": "duplicates", "what": "share of pictures nearly equal to another", "value": 0.0, "threshold": 0.05, "flagged": False,
         "note": ""},
        {"name": "robustness", "what": "share of the gain that a small change loses", "value": None, "threshold": 0.5, "flagged": False,
         "note": "Not checked: the reward cannot be computed here."},
    ]  # fmt: skip
    given = {
        "title": "builtin:shapes, aligned by Diffusion-DPO",
        "command": "diffalign eval --models builtin:shapes runs/demo/lora --baseline builtin:shapes",
        "baseline": "base",
        "models": (ModelResult("base", "builtin:shapes", 2 * prompts),
                   *(ModelResult(model, f"runs/{model}", 2 * prompts, trained_on=("judge",)) for model in models)),
        "prompts": Prompts("shapes/test", prompts, "9f" * 32, "Apache-2.0"),
        "rewards": {"judge": {"version": 1}, "sharpness": {"version": 2}},
        "comparisons": tuple(comparisons),
        "ranking": (Ranking("judge", (*(Rating(model, 1080.0 + 9 * i, 1050 + 9 * i, 1115 + 9 * i) for i, model in enumerate(models)),
                                      Rating("base", 1000.0)), "Bradley-Terry on the Elo scale, base = 1000"),),
        "categories": tuple(categories),
        "findings": {model: findings for model in models},
        "distribution": {model: {"Vendi": {"value": 12.4, "n": 2 * prompts}, "KID to base": {"value": 0.0123, "n": 2 * prompts}}
                         for model in models},
        "curves": (Curve("Scores over training", "held out below", "step", {"judge": [(0, 0.5), (100, 0.7), (200, 0.75)],
                                                                            "sharpness": [(0, 0.6), (100, 0.58), (200, 0.4)]}),),
        "samples": tuple(samples),
        "settings": {"seed": 0, "num_inference_steps": 20},
        "versions": {"diffalign": "0.1.0"},
    }  # fmt: skip
    return Evaluation(**(given | changes))


def counted(samples, model: str, reward: str, prompts: int) -> ComparisonResult:
    """A comparison whose counts are those of the samples; the interval is the normal one."""
    gaps = [sample.gap(model, "base", reward) for sample in samples]
    wins, ties, losses = (sum(test(gap) for gap in gaps) for test in (lambda g: g > 0, lambda g: g == 0, lambda g: g < 0))
    rate = (wins + ties / 2) / len(gaps)
    half = 1.96 * (rate * (1 - rate) / len(gaps)) ** 0.5
    ours, theirs = (sorted(sample.scores[name][reward] for sample in samples) for name in (model, "base"))
    middle = len(gaps) // 2
    return ComparisonResult(
        model, reward, rate, (max(0, rate - half), min(1, rate + half)), wins, ties, losses, prompts, sum(ours) / len(ours), ours[middle],
        sum(theirs) / len(theirs), theirs[middle], {"sign test": 0.0004}, "sign test", 0.0008, 0.61,
    )  # fmt: skip
