"""The space of offline methods: noising x conditioning x reference x objective. Every combination runs, or says why it does not exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diffalign import objectives
from diffalign.denoising import GRIDS, Inversion, outputs

SOURCES = ("pairs", "labels", "rankings")  # what data holds, or is converted to
NOISING = ("shared", "independent", "ddim-inversion", "renoise-inversion")
CONDITIONING = ("same", "dual captions")
REFERENCES = ("none", "base", "start", "past", "ema")
INVERTED_BY = ("policy", "reference")


@dataclass(frozen=True)
class Point:
    """One method, named or not.

    noising         where x_t comes from: ``shared`` (one noise for the samples of a record), ``independent`` (one for each sample), or an
                    inversion of each sample along the network's own ODE, whose noise is what leads from x0 to x_t
    conditioning    ``same``: the prompt for every sample; ``dual captions``: each side of a pair its own
    reference       ``none | base | start | past | ema``
    objective       a row of ``diffalign.objectives``; it also says what it is asked about: pairs, labels or rankings (``source``)
    objective_options   the row's options, in our units
    soft_label_scale    g: a pair's soft label p multiplies beta by g (2p - 1) inside the link, and the label there is 1 (SmPO: 10);
                    None: p goes into the link
    swap            exchange chosen and rejected (Diffusion-NPO)
    inversion       settings of ``denoising.Inversion`` beside its kind
    inverted_by     whose ODE: the ``policy`` as it is now (as SmPO and InPO were released) or the ``reference``
    """

    objective: str
    objective_options: Mapping[str, float] = field(default_factory=dict)
    noising: str = "shared"
    conditioning: str = "same"
    reference: str = "start"
    soft_label_scale: float | None = None
    swap: bool = False
    inversion: Mapping[str, float | int | str] = field(default_factory=dict)
    inverted_by: str = "policy"

    @property
    def source(self) -> str:
        """What the data has to hold: pairs, labels or rankings."""
        return objectives.TABLE[self.objective].takes

    @property
    def inverts(self) -> bool:
        return self.noising.endswith("-inversion")

    def build_inversion(self) -> Inversion | None:
        """The inversion of this point, or None. Raises ValueError for settings that it does not have."""
        return Inversion(self.noising.removesuffix("-inversion"), **self.inversion) if self.inverts else None

    def build_objective(self, all_reduce: Callable | None = None) -> objectives.Objective:
        """``all_reduce``: as of ``objectives.get``. Raises ValueError for an unknown objective or option, or a value out of range."""
        return objectives.get(self.objective, all_reduce=all_reduce, **self.objective_options)

    def refusals(self) -> list[str]:
        """Why this combination does not exist, a sentence each; [] for one that does. Unknown names and options are among them."""
        found = []
        for name, value, allowed in (
            ("noising", self.noising, NOISING),
            ("conditioning", self.conditioning, CONDITIONING),
            ("reference", self.reference, REFERENCES),
            ("inverted_by", self.inverted_by, INVERTED_BY),
        ):
            if value not in allowed:
                found.append(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
        if found:
            return found
        try:
            objective = self.build_objective()
        except ValueError as error:
            return [str(error)]
        if self.source not in SOURCES:
            found.append(
                f"the objective {self.objective} takes {self.source}, and no data is read or converted to these (it gives "
                f"{', '.join(SOURCES)}): choose an objective that takes one of them, or call it yourself"
            )
        asked = sorted(need.removeprefix("extra:") for need in objective.needs if need.startswith("extra:"))
        if unmeasured := [name for name in asked if name not in outputs.MEASURES]:
            found.append(
                f"the objective {self.objective} reads {', '.join(unmeasured)}, and a denoising step measures "
                f"{', '.join(outputs.MEASURES)} only: choose another objective, or measure it and call the objective yourself"
            )
        if self.reference == "none" and any(need in ("reference", "extra:drift", "extra:cross") for need in objective.needs):
            found.append(f"reference is 'none', but the objective {self.objective} compares with one: use start, base or ema")
        if self.conditioning == "dual captions" and self.source != "pairs":
            found.append(f"conditioning is 'dual captions', but {self.objective} takes {self.source}, which have one caption: use same")
        if self.soft_label_scale is not None and not _scales(objective):
            found.append(
                f"soft_label_scale scales a logistic margin that alone reads the label, which {self.objective} with "
                f"{', '.join(self.objective_options) or 'no options'} is not: leave it out, and soft labels go into the link"
            )
        if self.soft_label_scale is not None and not self.soft_label_scale > 0:
            found.append(f"soft_label_scale is {self.soft_label_scale}; it must be positive (SmPO: 10)")
        if self.swap and self.source != "pairs":
            found.append(f"swap exchanges the sides of a pair, and {self.objective} takes {self.source}: leave it out")
        if not self.inverts and (self.inversion or self.inverted_by != "policy"):
            found.append(f"inversion settings were given, but noising is '{self.noising}', which inverts nothing: leave them out")
        if self.inverts and self.inverted_by == "reference" and self.reference == "none":
            found.append("inverted_by is 'reference' and reference is 'none': invert by the policy, or choose a reference")
        try:
            self.build_inversion()
        except (ValueError, TypeError) as error:
            found.append(str(error))
        return found

    def not_cacheable(self, posterior: str) -> str | None:
        """Why the levels of this point's inversion cannot be kept from one use of a record to the next, or None."""
        if not self.inverts or self.inverted_by != "reference" or self.reference == "ema":
            what = f"by the {self.inverted_by}" if self.inverts else "none"
            return f"cache_inversion keeps an inversion by a reference that stays as it is; this one is {what}, reference {self.reference}"
        if self.build_inversion().eta > 0:
            return f"cache_inversion keeps levels, and eta {self.inversion['eta']} adds new noise to them at every use: set eta to 0"
        if posterior != "mean":
            return f"cache_inversion keeps the levels of a latent, and posterior {posterior!r} draws another each time: set posterior mean"
        return None

    def check_path(self, path) -> None:
        """Refuse an inversion grid that a noising path does not have (flow paths have ``own`` only). Raises ValueError."""
        if (inversion := self.build_inversion()) is not None:
            GRIDS[inversion.grid].levels(path, inversion.steps)


def _scales(objective: objectives.Objective) -> bool:
    """Whether a scale inside the link is all that a soft label has to change: a logistic link, and no term that asks who won."""
    if not isinstance(objective, objectives.PairObjective) or not isinstance(objective.link, objectives.Logistic):
        return False
    return all(isinstance(term, objectives.Anchor) for term in objective.terms)
