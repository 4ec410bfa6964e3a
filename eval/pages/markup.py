"""Pieces of HTML that both pages are made of: the document around them, the head with the verdict, pictures, curves, provenance."""

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from diffalign.eval.pages import svg
from diffalign.eval.pages.content import Curve

TINY = 64  # pixels: pictures up to this side are embedded as they are and enlarged crisply by the browser


def write_document(path: str | Path, title: str, css: str, body: str, policy: str, script: str = "") -> Path:
    """Write one HTML file, whole or not at all; its folder is made where missing.

    Args:
        policy: the content security policy, by which the browser itself refuses anything from outside.
        script: JavaScript run once the body is there; the policy must allow it.

    Returns:
        The path written.
    """
    path = Path(path)
    end = f"<script>{script}</script>\n" if script else ""
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{css}</style>\n</head>\n<body>\n{body}\n{end}</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def header(title: str, verdict: str, lead: str, facts: Sequence[tuple[str, object, str]] = ()) -> str:
    """What a reader sees first; facts: (name, value, note)."""
    cells = "".join(f'<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>{note("dd", text)}</div>' for name, value, text in facts)
    return (
        f'<header><p class="title">{escape(title)}</p><h1>{escape(verdict)}</h1>'
        + (f'<p class="lead">{escape(lead)}</p>' if lead else "")
        + (f'<dl class="facts">{cells}</dl>' if cells else "")
        + "</header>"
    )


def embedded(image: Image.Image, largest: int) -> dict[str, object]:
    """``src``, ``width``, ``height`` and ``class`` of an img that carries its picture.

    A tiny picture as PNG, pixel for pixel; a larger one as JPEG of at most ``largest`` pixels a side, a tenth of its PNG.
    """
    image, data = image.convert("RGB"), io.BytesIO()
    tiny = max(image.size) <= TINY
    if tiny:
        image.save(data, "PNG", optimize=True)
    else:
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
        image.save(data, "JPEG", quality=85, optimize=True)
    source = f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(data.getvalue()).decode()}"
    return {"class": "pixels" if tiny else "photo", "src": source, "width": image.width, "height": image.height}


def tag(name: str, attributes: Mapping[str, object]) -> str:
    """An opening tag; texts are escaped."""
    return f"<{name} " + " ".join(f'{key}="{escape(str(value))}"' for key, value in attributes.items()) + ">"


def curves(given: Sequence[Curve]) -> str:
    """A section of line plots, or nothing."""
    figures = []
    for curve in given:
        names = "".join(f"<span>{svg.swatch(index)}{escape(name)}</span>" for index, name in enumerate(curve.series))
        missing = f"Not finite, so not drawn: {curve.left_out} of the points." if curve.left_out else ""
        figures.append(
            f"<figure><div><h3>{escape(curve.title)}</h3>{note('p', curve.note)}</div>{svg.plot(curve)}"
            f'<figcaption><p class="legend">{names}</p>{note("p", missing)}</figcaption></figure>'
        )
    return f'<section><div class="curves">{"".join(figures)}</div></section>' if figures else ""


def provenance(given: Mapping[str, object]) -> str:
    """Where a page comes from, folded away; values are texts, numbers, or anything JSON can hold."""

    def show(value):
        if isinstance(value, Mapping | list | tuple):
            text = json.dumps(value, default=str, ensure_ascii=False)
            if len(text) > 100:
                text = json.dumps(value, default=str, ensure_ascii=False, indent=2)
            return f"<pre>{escape(text)}</pre>"
        return escape(str(value))

    if not given:
        return ""
    entries = "".join(f"<dt>{escape(str(name))}</dt><dd>{show(value)}</dd>" for name, value in given.items())
    return f'<section class="provenance"><details><summary>Where this comes from</summary><dl>{entries}</dl></details></section>'


def note(name: str, text: str) -> str:
    """A quiet line, or nothing."""
    return f'<{name} class="note">{escape(text)}</{name}>' if text else ""
