"""Values for the fields of a configuration, however they were written down: YAML, a preset or Python."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from diffalign.train.errors import ConfigError


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a file holds. Raises ConfigError where it cannot be read or holds something else."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold 'name: value' lines; it holds {'nothing' if values is None else type(values).__name__}")
    return values


def fitting(cls: type, values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Those ``values`` that are fields of the dataclass ``cls`` and have their types, and a sentence about every other one."""
    kinds, good, problems = get_type_hints(cls), {}, []
    for name, value in values.items():
        if name not in kinds:
            problems.append(unknown("option", str(name), kinds))
            continue
        try:
            good[name] = converted(value, kinds[name])
        except ValueError as error:
            problems.append(f"{name} is {value!r}; {error}")
    return good, problems


def converted(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``: a plain type, Literal, list[...], dict[str, ...] or one of these or None.

    What YAML 1.1 reads in its own way is read as it was meant: ``no`` as the word where a field has that choice, ``1e-5`` as a number.
    Raises ValueError with what the value must be.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (given,) = (part for part in inner if part is not types.NoneType)
        return None if value is None else converted(value, given)
    if origin is Literal:
        word = "no" if value is False and "no" in inner else value
        if isinstance(word, str) and word in inner:
            return word
        raise ValueError(f"it must be one of {', '.join(inner)}")
    if origin is list and isinstance(value, list | tuple):
        return [converted(part, inner[0]) for part in value]
    if origin is dict and isinstance(value, dict):
        return {converted(key, inner[0]): converted(_worded(part, inner[1]), inner[1]) for key, part in value.items()}
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool) and (number := _finite(value)) is not None:
        return number
    if kind in (bool, int, str) and type(value) is kind:
        return value
    raise ValueError(f"it must be {_called(kind)}")


def unknown(what: str, given: str, known: Iterable[str]) -> str:
    """The sentence about a name that is not in a table, with the nearest one that is."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f"unknown {what} {given!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")


def _worded(value: Any, kind: Any) -> Any:
    """A number where text is wanted, as it was written: ``steps: 4``, ``chosen: 1``."""
    return str(value) if kind is str and isinstance(value, int | float) and not isinstance(value, bool) else value


def _finite(value: int | float | str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _called(kind: Any) -> str:
    plain = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    if get_origin(kind) is list:
        return f"a list, each of it {_called(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"'name: value' pairs, each value {_called(get_args(kind)[1])}"
    return plain[kind]
