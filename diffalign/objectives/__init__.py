r"""The preference core: evidence and comparison in, losses out. Torch only; nothing here knows what a sample is.

objective = objectives.get("dpo", beta=5000.0)
terms = objective(evidence, comparison)
loss = objectives.reduce(terms, denominator=pairs_in_the_whole_step)
"""

from diffalign.objectives.comparison import Comparison
from diffalign.objectives.components import Hinge, LengthMean, Link, Logistic, LogRatio, PolicyEvidence, RewardMap, Squared
from diffalign.objectives.evidence import Evidence
from diffalign.objectives.metrics import Metrics, means, merge
from diffalign.objectives.pairwise import PairObjective
from diffalign.objectives.table import TABLE, Option, Row, get, names
from diffalign.objectives.terms import Terms, reduce

__all__ = [
    "TABLE", "Comparison", "Evidence", "Hinge", "LengthMean", "Link", "LogRatio", "Logistic", "Metrics", "Option", "PairObjective",
    "PolicyEvidence", "RewardMap", "Row", "Squared", "Terms", "get", "means", "merge", "names", "reduce",
]
