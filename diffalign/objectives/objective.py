r"""What every objective is: a pure function of evidence and labels, which says what it needs.

    terms = objective(evidence, labels)          labels: Comparison, Labels, Rankings or Scores, as `takes` says
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from diffalign.objectives.comparison import LabelSet
from diffalign.objectives.evidence import Evidence
from diffalign.objectives.terms import Terms

AllReduce = Callable[[Tensor], Tensor]  # a tensor of this rank -> its sum over all ranks; called by every rank, once a training call


def alone(tensor: Tensor) -> Tensor:
    """The sum over all ranks where there is one."""
    return tensor


class Objective:
    r"""Base of the objectives.

    Attributes:
        takes: "pairs" (Comparison), "labels" (Labels), "rankings" (Rankings) or "scores" (Scores).
        unit: what a loss is counted by: "pair", "sample" or "group".
        needs: fields of the evidence read besides `policy`: "reference", "size", and "extra:NAME" for `evidence.extra[NAME]`.
    """

    takes: ClassVar[str]
    unit: ClassVar[str]
    labels: ClassVar[type[LabelSet]]

    @property
    def needs(self) -> frozenset[str]:
        raise NotImplementedError

    def __call__(self, evidence: Evidence, comparison: Any) -> Terms:
        raise NotImplementedError

    def loss_at_start(self, comparison: Any) -> Tensor:
        """(U,) the loss while policy and reference are equal. ValueError with the reason where the model decides it."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, float]:
        """What has to be saved for a run to resume to the same bits; {} but for an adaptive beta and a running mean."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """The inverse of `state_dict`. Raises ValueError for a state which is not this objective's."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state and was given {', '.join(state)}: was it saved by another objective?")

    def _beside(self, comparison: Any, values: Tensor) -> Any:
        """The labels beside the (N,) `values` of the evidence, after a look at their kind and at the rows they reach."""
        if not isinstance(comparison, self.labels):
            raise ValueError(f"this objective takes {self.takes}, a {self.labels.__name__}; got {type(comparison).__name__}")
        count = len(values)
        if comparison.rows > count or (self.takes != "pairs" and comparison.rows != count):
            reach = f"the comparison reaches row {comparison.rows - 1} and the evidence has {count} rows"
            raise ValueError(f"{reach}: build both from one batch")
        return comparison.beside(values)
