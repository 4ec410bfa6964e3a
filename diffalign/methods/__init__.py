"""Offline diffusion methods as points in one space: source x noising x conditioning x reference x objective.

A named method is a preset over those choices; its objective is a row of ``diffalign.objectives``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One published method. ``objective_options`` are its published settings in our units (mean-over-latent errors)."""

    name: str
    title: str
    formula: str
    paper: str
    source: str  # pairs | labels | rankings
    noising: str  # shared | independent | ddim-inversion | renoise-inversion
    conditioning: str  # same | dual captions
    reference: str  # none | base | start | ema
    objective: str
    objective_options: Mapping[str, float]


TABLE = {
    method.name: method
    for method in [
        Method(
            name="diffusion-dpo",
            title="Diffusion-DPO",
            formula="-log sigmoid(-beta/2 * [(l_policy - l_ref)(chosen) - (l_policy - l_ref)(rejected)]), l = mean squared denoising error",
            paper="arXiv:2311.12908, eq. 14",
            source="pairs",
            noising="shared",
            conditioning="same",
            reference="start",
            objective="dpo",
            objective_options={"beta": 5000.0},
        ),
    ]
}


def names() -> list[str]:
    return list(TABLE)


def get(name: str) -> Method:
    """The method of that name. Raises ValueError naming the nearest known one."""
    if name not in TABLE:
        near = difflib.get_close_matches(name, TABLE, n=1)
        raise ValueError(f"unknown method {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(TABLE)}"))
    return TABLE[name]
