"""The pictures of the evaluation page: which are embedded, the part that needs no script, and what the script works on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from diffalign.eval.evaluation import Evaluation
from diffalign.eval.pages.markup import embedded, note, tag
from diffalign.eval.results import Sample


def by_lot(samples: Sequence[Sample]) -> list[Sample]:
    """An order that says nothing about the pictures, and is the same each time: by a hash of prompt id and index."""
    return sorted(samples, key=lambda sample: hashlib.sha256(f"{sample.prompt_id}/{sample.index}".encode()).hexdigest())


def chosen(evaluation: Evaluation, count: int) -> tuple[list[Sample], list[Sample]]:
    """(by lot, extreme): ``count`` samples, half by lot, the others the largest losses and gains of each model in turn, none twice."""
    lot = by_lot(evaluation.samples)
    first, more, extremes = lot[: (count + 1) // 2], [], []
    taken = {id(sample) for sample in first}
    for model in evaluation.others:
        gaps = [(sample.gap(model, evaluation.baseline, evaluation.reward), sample) for sample in lot if id(sample) not in taken]
        ordered = sorted((item for item in gaps if item[0]), key=lambda item: item[0])
        extremes.append([sample for gap, sample in ordered if gap < 0])
        extremes.append([sample for gap, sample in reversed(ordered) if gap > 0])
    for place in range(max(map(len, extremes), default=0)):
        for sample in (queue[place] for queue in extremes if place < len(queue)):
            if id(sample) not in taken and len(first) + len(more) < count:
                taken.add(id(sample))
                more.append(sample)
    rest = [sample for sample in lot if id(sample) not in taken]
    return first + rest[: count - len(first) - len(more)], more


def pictures(evaluation: Evaluation, root: Path, page: Path, count: int, largest: int) -> str:
    """The section of pictures, or nothing where there are no samples.

    Without a script it shows the embedded samples; with one, ``page_script.py`` takes their pictures over into the viewer and reads
    the other samples from the JSON block.

    Raises:
        ValueError: a picture that is to be embedded is not there.
    """
    if not evaluation.samples or not evaluation.others:
        return ""
    names = (evaluation.baseline, *evaluation.others)
    lot, more = chosen(evaluation, count)
    places = {id(sample): place for place, sample in enumerate(by_lot(evaluation.samples))}

    def figures(samples):
        return "".join(_figure(sample, places[id(sample)], names, evaluation.reward, root, largest) for sample in samples)

    data = {
        "models": names, "rewards": evaluation.reward_names, "shown": names.index(evaluation.leader or names[1]),
        "folder": _address(root, page, ""),
        "samples": [_line(sample, names, evaluation.reward_names) for sample in by_lot(evaluation.samples)],
    }  # fmt: skip
    parts = [f'<div class="pairs large">{figures(lot)}</div>'] if lot else []
    if more:
        parts.append(f'<h3>Beside these, the largest losses and gains</h3><div class="pairs large">{figures(more)}</div>')
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<section id="pictures"><h2>Pictures</h2>'
        f'<noscript>{note("p", "Chosen by lot. Toggle, slider, filters and search need JavaScript.")}</noscript>'
        f'<div id="static">{"".join(parts)}</div>{_viewer(evaluation, len(names) > 2)}'
        f'<script type="application/json" id="data">{text}</script></section>'
    )


def _figure(sample: Sample, place: int, names: Sequence[str], reward: str, root: Path, largest: int) -> str:
    cells = []
    for name in names:
        path = root / sample.images[name]
        try:
            with Image.open(path) as image:
                attributes = embedded(image, largest)
        except FileNotFoundError:
            raise ValueError(f"there is no picture {path}; give write_page the folder of the results as root, or embed=0") from None
        score = sample.scores.get(name, {}).get(reward)
        under = f"<p class='under'><span>{escape(name)}</span><b>{'' if score is None else f'{score:.4g}'}</b></p>"
        cells.append(f'<div class="side">{tag("img", attributes | {"alt": f"{name}: {sample.prompt}"})}{under}</div>')
    caption = f"<figcaption>{escape(sample.prompt)}</figcaption>"
    return f'<figure class="pair" data-sample="{place}"><div class="two">{"".join(cells)}</div>{caption}</figure>'


def _line(sample: Sample, names: Sequence[str], rewards: Sequence[str]) -> dict:
    """A sample as the script reads it: addresses and scores in the order of models and rewards."""
    scores = [[sample.scores.get(name, {}).get(reward) for reward in rewards] for name in names]
    paths = [quote(Path(sample.images[name]).as_posix()) for name in names]
    seed = "" if sample.seed is None else str(sample.seed)  # as a text: JavaScript would round a large one
    about = {"id": sample.prompt_id, "prompt": sample.prompt, "category": sample.category, "index": sample.index, "seed": seed}
    return about | {"images": paths, "scores": scores}


def _address(root: Path, page: Path, path: str) -> str:
    """From the page's folder to the results', as a browser writes it; ``""`` where they are one."""
    relative = Path(os.path.relpath(root / path, page.parent)).as_posix()
    return "" if relative == "." else quote(relative) + "/"


def _viewer(evaluation: Evaluation, several: bool) -> str:
    """The viewer as the script finds it, hidden until then."""
    categories = list(dict.fromkeys(sample.category for sample in evaluation.samples if sample.category))

    def select(name, label, options, shown=True):
        items = "".join(f'<option value="{escape(str(value))}">{escape(text)}</option>' for value, text in options)
        return f'<label{"" if shown else " hidden"}>{label}<select id="{name}">{items}</select></label>'

    def buttons(name, label, options):
        items = "".join(f'<button type="button" value="{value}" aria-pressed="false">{text}</button>' for value, text in options)
        return f'<div class="segments" id="{name}" role="group" aria-label="{label}">{items}</div>'

    models, rewards = list(enumerate(evaluation.others, start=1)), list(enumerate(evaluation.reward_names))
    outcomes = [("", "All"), ("win", "Wins"), ("tie", "Ties"), ("loss", "Losses")]
    return (
        '<div id="viewer" hidden><div class="controls">'
        + buttons("order", "Order", [("lot", "By lot"), ("worst", "Worst regressions"), ("best", "Largest gains")])
        + select("model", "Model", models, several)
        + select("reward", "Scored by", rewards, len(rewards) > 1)
        + select("category", "Category", [("", "All"), *((name, name) for name in categories)], bool(categories))
        + select("outcome", "Outcome", outcomes)
        + '<label class="search">Search prompts<input id="query" type="search" autocomplete="off"></label></div>'
        + '<p id="count" class="note" role="status"></p><div class="desk">'
        + '<div id="stage" tabindex="0" role="group" aria-label="Selected pictures" aria-describedby="keys"><div class="bar">'
        + buttons("view", "View", [("side", "Side by side"), ("toggle", "Toggle"), ("slider", "Slider")])
        + '<div class="steps"><button type="button" id="previous" aria-label="Previous pictures">←</button>'
        + '<button type="button" id="next" aria-label="Next pictures">→</button></div></div>'
        + '<div id="frames"><figure class="theirs"><div class="box"><img alt=""></div><figcaption></figcaption></figure>'
        + '<figure class="ours"><div class="box"><img alt=""></div><figcaption></figcaption></figure></div>'
        + '<input id="cut" type="range" min="0" max="100" value="50" aria-label="Where the second picture begins, in per cent">'
        + '<p id="prompt" aria-live="polite"></p><p id="about" class="note"></p><table id="scores"></table>'
        + '<p id="keys" class="note">← → other pictures; space: the other model in the same place.</p></div>'
        + '<div class="list"><div id="scroll"><ol id="thumbs"></ol>'
        + '<button type="button" id="more">Show more</button></div></div></div></div>'
    )
