r"""The preference core: evidence and labels in, losses out. Torch only; nothing here knows what a sample is.

objective = objectives.get("dpo", beta=5000.0)
terms = objective(evidence, comparison)
loss = objectives.reduce(terms, denominator=pairs_in_the_whole_step)
"""

from diffalign.objectives import recipes
from diffalign.objectives.adaptive import AdaptiveBeta
from diffalign.objectives.aliases import ALIASES, Alias
from diffalign.objectives.baselines import Baseline, BatchMean, MismatchedMean, RunningMean, Zero
from diffalign.objectives.comparison import Comparison
from diffalign.objectives.evidence import Evidence
from diffalign.objectives.extras import EXTRAS, Extra
from diffalign.objectives.gaps import GapKL, GapRegression, GapReverseKL
from diffalign.objectives.labels import Labels, Rankings, Scores
from diffalign.objectives.links import DiscoPOP, Hinge, Link, Logistic, Regression, ReverseKL, Robust, Sigmoid, Squared
from diffalign.objectives.lists import CrossPairs, ListShape, PlackettLuce, SwapGaps
from diffalign.objectives.listwise import ListObjective
from diffalign.objectives.metrics import Metrics, means, merge, plain
from diffalign.objectives.objective import Objective
from diffalign.objectives.pairterms import Anchor, Likelihood, LinearWeight, PairTerm, Points, ScoreMatching, Side, WinnerError
from diffalign.objectives.pairwise import PairObjective
from diffalign.objectives.pointwise import SampleObjective
from diffalign.objectives.rewards import LengthMean, LogRatio, Named, Plus, PolicyEvidence, RewardMap, ScaledReference
from diffalign.objectives.row import Option, Row
from diffalign.objectives.scored import NashGradient, Regress, ScoreObjective
from diffalign.objectives.scores import ErrorRatio, JensenShannon, Odds, Penalised, Power
from diffalign.objectives.sides import ConditionalReference, EachSide, PairReward, SortedMargins, SortedRewards
from diffalign.objectives.table import TABLE, get, names
from diffalign.objectives.targets import (
    CrossEntropy,
    Extremes,
    NoiseContrast,
    Posterior,
    ReverseCrossEntropy,
    SoftmaxTarget,
    TemperedRanking,
)
from diffalign.objectives.terms import Terms, reduce
from diffalign.objectives.textterms import Added, AddedOfPair, ConditionContrast, Optimism, Rationale, SpectralTriplet
from diffalign.objectives.weights import PairWeight, PromptNearness, SelfAgreement
from diffalign.objectives.wrapped import Shifted, Weighted

__all__ = [
    "ALIASES", "EXTRAS", "TABLE", "AdaptiveBeta", "Added", "AddedOfPair", "Alias", "Anchor", "Baseline", "BatchMean", "Comparison",
    "ConditionContrast", "ConditionalReference", "CrossEntropy", "CrossPairs", "DiscoPOP", "EachSide", "ErrorRatio", "Evidence",
    "Extra", "Extremes", "GapKL", "GapRegression", "GapReverseKL", "Hinge", "JensenShannon", "Labels", "LengthMean", "Likelihood",
    "LinearWeight", "Link", "ListObjective", "ListShape", "LogRatio", "Logistic", "Metrics", "MismatchedMean", "Named", "NashGradient",
    "NoiseContrast", "Objective", "Odds", "Optimism", "Option", "PairObjective", "PairReward", "PairTerm", "PairWeight", "Penalised",
    "PlackettLuce", "Plus", "Points", "PolicyEvidence", "Posterior", "Power", "PromptNearness", "Rankings", "Rationale", "Regress",
    "Regression", "ReverseCrossEntropy", "ReverseKL", "RewardMap", "Robust", "Row", "RunningMean", "SampleObjective", "ScaledReference",
    "ScoreMatching", "ScoreObjective", "Scores", "SelfAgreement", "Shifted", "Side", "Sigmoid", "SoftmaxTarget", "SortedMargins",
    "SortedRewards", "SpectralTriplet", "Squared", "SwapGaps", "TemperedRanking", "Terms", "Weighted", "WinnerError", "Zero", "get",
    "means", "merge", "names", "plain", "recipes", "reduce",
]  # fmt: skip
