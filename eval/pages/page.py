"""The evaluation as one interactive page: verdict, checks, win rates, pictures to compare, ranking, categories, where it comes from.

    write_page("results/report.html", evaluation)

One file that works from a disk, offline: pictures are embedded up to a number, the others are read from beside the page. Everything but
the viewer's toggles and filters is there without JavaScript. The browser is told to load nothing from outside and to run this script only.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from pathlib import Path

from diffalign.eval.evaluation import Evaluation
from diffalign.eval.pages import markup, page_tables
from diffalign.eval.pages.page_pictures import pictures
from diffalign.eval.pages.page_script import SCRIPT
from diffalign.eval.pages.page_style import PAGE_CSS


def write_page(path: str | Path, evaluation: Evaluation, *, root: str | Path | None = None, embed: int = 48, largest: int = 384) -> Path:
    """Write the page, whole or not at all; equal results and pictures give equal bytes.

    Args:
        path: of the HTML file; its folder is made where missing.
        root: the folder that the paths of the samples are relative to; default: the page's own.
        embed: how many samples (of all models) carry their pictures in the page: half by lot, the rest the largest losses and gains. The
            others show theirs only while the files are where they were, relative to the page.
        largest: pixels a side of an embedded picture; larger ones are made smaller, and link to the file.

    Returns:
        The path written.

    Raises:
        ValueError: embed or largest is negative, or a picture to embed is not there.
    """
    if embed < 0 or largest < 1:
        raise ValueError(f"embed is {embed} and largest {largest}; no page embeds fewer than 0 samples, or pictures under 1 pixel")
    path = Path(path)
    root = path.parent if root is None else Path(root)
    shown = pictures(evaluation, root, path, embed, largest)
    sections = {
        "checks": page_tables.checks(evaluation),
        "rates": page_tables.win_rates(evaluation),
        "pictures": shown,
        "ranking": page_tables.ranking(evaluation),
        "categories": page_tables.categories(evaluation),
        "distribution": _distribution(evaluation),
        "diagnostics": _diagnostics(evaluation),
        "curves": markup.curves(evaluation.curves),
        "provenance": markup.provenance(_provenance(evaluation)),
    }
    body = [_header(evaluation), "<main>", *filter(None, sections.values()), "</main>"]
    return markup.write_document(path, evaluation.title, PAGE_CSS, "\n".join(body), _policy(bool(shown)), SCRIPT if shown else "")


def _header(evaluation: Evaluation) -> str:
    sentence, lead = (re.sub(r"(?<=\d) (?=%)|(?<=p) (?=[<=])|(?<=[<=]) (?=\d)", "\u00a0", text) for text in evaluation.verdict())
    notices = "".join(f"<li>{escape(text)}</li>" for text in evaluation.warnings)
    return markup.header(evaluation.title, sentence, lead) + (f'<ul class="notices">{notices}</ul>' if notices else "")


def _distribution(evaluation: Evaluation) -> str:
    text = "How the sets of pictures differ, and how varied each is. Distances of few pictures are too large: compare equal n only."
    names = (evaluation.baseline, *evaluation.others)
    return page_tables.measures("distribution", "Distribution and diversity", text, evaluation.distribution, names)


def _diagnostics(evaluation: Evaluation) -> str:
    text = "Of the models themselves rather than of their pictures."
    names = (evaluation.baseline, *evaluation.others)
    return page_tables.measures("diagnostics", "Diagnostics of preference learning", text, evaluation.diagnostics, names)


def _provenance(evaluation: Evaluation) -> dict[str, object]:
    prompts = evaluation.prompts
    given = {
        "command": evaluation.command,
        "prompts": {"name": prompts.name, "count": prompts.count, "sha256": prompts.sha256, "licence": prompts.licence},
        "models": {
            model.name: {"source": model.source, "images": model.images, "trained on": list(model.trained_on), **model.about}
            for model in evaluation.models
        },
        "rewards": evaluation.rewards,
        "settings": evaluation.settings,
        "versions": evaluation.versions,
    }
    return {name: value for name, value in given.items() if value}


def _policy(script: bool) -> str:
    """Nothing from outside; pictures from the page or beside it; the page's own style and script, by their hashes."""

    def allowed(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    scripts = f"; script-src {allowed(SCRIPT)}" if script else ""
    return f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src {allowed(PAGE_CSS)}; img-src data: 'self'{scripts}"
