"""The before/after grid as one PNG, for a README or a slide."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffalign.eval.pages.content import Comparison, Grid, Picture

# In pixels of the file; a README shows the sheet at about half its size.
PICTURE, BETWEEN, ACROSS, DOWN, MARGIN = 256, 12, 52, 44, 48
PAGE, INK, QUIET, LINE, ACCENT = "#ffffff", "#1b1f23", "#59636d", "#d5dadd", "#0a6b63"


def contact_sheet(grids: Sequence[Grid], path: str | Path, *, columns: int = 3, rows: int = 3) -> Path:
    """Draw the first ``columns * rows`` comparisons of every grid under its title; small pictures are enlarged without smoothing.

    Args:
        grids: what to draw, from top to bottom. path: of the PNG; its folder is made where missing.

    Raises:
        ValueError: no grid has a row, or columns or rows is below 1.
    """
    if columns < 1 or rows < 1:
        raise ValueError(f"a contact sheet needs at least one column and one row, not {columns} x {rows}")
    shown = [(grid, list(grid.rows[: columns * rows])) for grid in grids if grid.rows]
    if not shown:
        raise ValueError("a contact sheet needs at least one grid with one row in it")
    cell, y = 2 * PICTURE + BETWEEN, MARGIN
    width = 2 * MARGIN + columns * cell + (columns - 1) * ACROSS
    texts, cells = [], []  # what goes where, before the height is known
    for grid, comparisons in shown:
        texts.append((y, grid.title, INK, 36))
        y += 46
        for line in _wrap(grid.note, width - 2 * MARGIN, _font(24)):
            texts.append((y, line, QUIET, 24))
            y += 32
        y += 24
        for start in range(0, len(comparisons), columns):
            line = comparisons[start : start + columns]
            cells += [(MARGIN + index * (cell + ACROSS), y, row) for index, row in enumerate(line)]
            y += max(map(_cell_height, line)) + DOWN
        y += 12
    sheet = Image.new("RGB", (width, y - 12 - DOWN + MARGIN), PAGE)
    draw = ImageDraw.Draw(sheet)
    for top, text, colour, size in texts:
        draw.text((MARGIN, top), text, fill=colour, font=_font(size))
    for left, top, row in cells:
        _draw_cell(sheet, draw, left, top, row)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    sheet.save(partial, "PNG", optimize=True)
    os.replace(partial, path)
    return path


def _cell_height(row: Comparison) -> int:
    """Of two pictures, the line of scores and the wrapped prompt, in pixels."""
    return PICTURE + 48 + 32 * len(_wrap(row.prompt, 2 * PICTURE + BETWEEN, _font(25)))


def _draw_cell(sheet: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, row: Comparison) -> None:
    sides = zip(("before", "after"), (row.before, row.after), row.score_texts(), strict=True)
    for index, (side, picture, score) in enumerate(sides):
        left, under = x + index * (PICTURE + BETWEEN), y + PICTURE
        sheet.paste(_enlarged(picture), (left, y))
        draw.rectangle((left - 1, y - 1, left + PICTURE, under), outline=LINE)
        wins = row.winner == side
        if wins:
            draw.rectangle((left - 1, under + 7, left + PICTURE, under + 10), fill=ACCENT)
        draw.text((left, under + 14), picture.caption or side, fill=QUIET, font=_font(23))
        after = left + _font(23).getlength((picture.caption or side) + "  ")
        draw.text((after, under + 14), score, fill=INK if wins else QUIET, font=_font(23))
    for number, line in enumerate(_wrap(row.prompt, 2 * PICTURE + BETWEEN, _font(25))):
        draw.text((x, y + PICTURE + 46 + 32 * number), line, fill=INK, font=_font(25))


def _enlarged(picture: Picture) -> Image.Image:
    """The picture fitted into the square, crisp when it is enlarged and smooth when it is reduced."""
    scale = PICTURE / max(picture.image.size)
    size = [max(1, round(side * scale)) for side in picture.image.size]
    fitted = picture.image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (PICTURE, PICTURE), PAGE)
    square.paste(fitted, ((PICTURE - size[0]) // 2, (PICTURE - size[1]) // 2))
    return square


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
