"""The words that a judge is asked with. They belong to its weights as a layer's names do: with other words it is another judge.

Long questions that a published judge was trained with are their authors' texts and are not shipped. ``template`` reads them from a local
copy of the published file, or takes any words of one's own.
"""

from __future__ import annotations

import ast
from pathlib import Path

POINT = (
    "Look at the image and at this caption: {prompt}\n"
    "How well does the image show what the caption says, and how good is the image? "
    "Answer with one line: Score: N, where N is a number from 0 (fails altogether) to 10 (could not be better)."
)
PAIR = (
    "Compare the two images. Both are meant to show this caption: {prompt}\n"
    "Which one shows what the caption says, and is the better image? "
    "Answer with one line: Better: 1, or Better: 2, or Better: tie."
)
# linzhiqiu/t2v_metrics, what CLIP-FlanT5 and the Qwen models are asked, and LLaVA's system message
VQASCORE = 'Does this figure show "{prompt}"? Please answer yes or no.'
VQASCORE_CHAT = 'Does this image show "{prompt}"?'
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def template(reward: str, given: str | Path, marker: str = "") -> str:
    """The question with {prompt} where the caption goes.

    Args:
        given: the words themselves (they hold {prompt}); or a text file of them; or the published Python file, of which the string that
            holds ``marker`` is taken, whatever stands in braces there becoming {prompt}. The file is parsed, not run.
    Errors: ValueError for words without {prompt}, FileNotFoundError for a file that is not there.
    """
    if "{prompt}" in str(given):
        return str(given)
    path = Path(given).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"reward '{reward}': template is '{given}', which neither holds {{prompt}} nor is a file")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = next((found for found in _strings(text) if marker and marker in found), "")
    if "{prompt}" not in text:
        lacks = f"no string with '{marker}' and a place for the caption" if path.suffix == ".py" else "no {prompt} in it"
        raise ValueError(f"reward '{reward}': {path} is no question to ask: {lacks}")
    return text


def fill(words: str, prompt: str) -> str:
    """The question about one caption, which may hold braces itself."""
    return words.replace("{prompt}", prompt)


def assigned(path: Path) -> dict[str, str]:
    """Name -> text of the plain strings that a Python file assigns at its top level."""
    nodes = (node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign))
    found = {node.targets[0].id: node.value for node in nodes if isinstance(node.targets[0], ast.Name)}
    return {name: value.value for name, value in found.items() if isinstance(value, ast.Constant) and isinstance(value.value, str)}


def _strings(source: str) -> list[str]:
    """All strings of a Python source, f-strings with {prompt} for what they fill in; the longest first."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "{prompt}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return sorted(found, key=len, reverse=True)
