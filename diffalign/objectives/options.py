r"""The options that rows share, the knobs of pair rows, and how a pair row is put together from them."""

from collections.abc import Callable

from diffalign.objectives.adaptive import AdaptiveBeta
from diffalign.objectives.links import Link, Logistic
from diffalign.objectives.objective import AllReduce, alone
from diffalign.objectives.pairterms import Anchor, PairTerm, WinnerError
from diffalign.objectives.pairwise import PairObjective
from diffalign.objectives.rewards import RewardMap
from diffalign.objectives.row import Option
from diffalign.objectives.sides import PairReward
from diffalign.objectives.weights import PairWeight

# Evidence has no common scale, so beta has no default: an image's 5000 would saturate a text, a text's 0.1 teach an image nothing.
BETA = Option(
    unit="strength; multiplies the reward margin once: per nat for text, per unit of 1/2 x mean squared error for diffusion",
    published="5000 for SDXL, 2000 to 5000 for SD 1.5 (arXiv:2311.12908; diffusers' SD script calls 5000 2500); 0.01 to 0.1 for text",
)
SMOOTHING = Option(unit="share of labels taken to be wrong, in [0, 0.5)", published="0.1; HALOs 0.2", default=0.1)
NO_SMOOTHING = Option(SMOOTHING.unit, SMOOTHING.published, default=0.0)

LOSER_WEIGHT = Option(unit="multiplies the rejected side's log-ratio inside z", published="1; a habit of trainers, no paper", default=1.0)
SFT_WEIGHT = Option(
    unit="adds this times the winner's error (for text: minus twice its log-probability)",
    published="1 in CRPO, which writes L_DPO + L_FM (TangoFlux; not verified against the paper)",
    default=0.0,
)
ANCHOR_WEIGHT = Option(
    unit="adds half of this times the sides' mean squared distances of prediction and reference prediction",
    published="0 in SimpleTuner (anchor_alpha)",
    default=0.0,
)
ADAPTIVE_BETA = Option(
    unit="gradient factor that a typical pair is held at, in (0, 0.5), by lowering beta as margins grow; 0 keeps beta fixed",
    published="0.2 in SimpleTuner (auto_beta_target_gf; running mean with decay 0.99)",
    default=0.0,
)

ETA = Option("turns a gap of rewards into log-odds: multiplies the comparison's margin, R_chosen - R_rejected", "1", 1.0)
NLL_WEIGHT = "adds this times the winner's negative log-likelihood"
SPREAD = Option("divides the scores before the softmax that is the target, in their units", "1 (each paper has its own scores)", 1.0)

KNOBS = {"loser_weight": LOSER_WEIGHT, "sft_weight": SFT_WEIGHT, "anchor_weight": ANCHOR_WEIGHT}
LOGISTIC_KNOBS = {**KNOBS, "adaptive_beta": ADAPTIVE_BETA}
LOGISTIC = {"beta": BETA, "label_smoothing": NO_SMOOTHING, **LOGISTIC_KNOBS}  # of a log-ratio under a logistic link
RATIO = {"beta": BETA, **KNOBS}  # of a log-ratio under another link
FREE = {"label_smoothing": NO_SMOOTHING, "sft_weight": SFT_WEIGHT, "anchor_weight": ANCHOR_WEIGHT}  # reference-free, logistic, beside beta
POINTS = {"beta": BETA, "sft_weight": SFT_WEIGHT, "anchor_weight": ANCHOR_WEIGHT}  # of sides that are judged one by one

NOT_LOGISTIC = {"adaptive_beta": "adaptive_beta holds sigma(-z), the gradient factor of a logistic link, which this row's is not"}
NO_SCALE = {"adaptive_beta": "adaptive_beta lowers a beta per unit of log-ratio, and this row's margin is of another kind"}
NO_ZERO = {"loser_weight": "loser_weight scales a log-ratio, which is 0 at the start; this row's reward is not, so z would start off zero"}

NO_SMOOTH = {"label_smoothing": "give soft labels in its place, p = 1 - eps"}
NO_MARGIN = {"loser_weight": "loser_weight scales the rejected side inside a margin, and this row judges the sides one by one"}
OWN_NLL = {"sft_weight": "its own nll_weight is that term, in its own units"}
GAP = {"label_smoothing": "it has no labels: the gap of the two rewards goes into the margin"}
SINGLE = {name: "it is a knob of pairs" for name in ("loser_weight", "sft_weight", "anchor_weight", "label_smoothing", "adaptive_beta")}


def logistic(reward: RewardMap | PairReward) -> Callable[..., PairObjective]:
    """How a row of a logistic link on `reward` is built from beta, label_smoothing and knobs."""
    return lambda beta, label_smoothing, **knobs: pair(reward, Logistic(label_smoothing), beta, **knobs)


def inverse(name: str, value: float) -> float:
    """1/value. ValueError unless it is positive."""
    if not value > 0:
        raise ValueError(f"{name} must be positive and finite; got {value}")
    return 1 / value


def pair(
    reward: RewardMap | PairReward,
    link: Link | None,
    beta: float,
    *,
    terms: tuple[PairTerm | None, ...] = (),
    balanced: bool = False,
    flipped: bool = False,
    weighting: PairWeight | None = None,
    ignores: frozenset[str] = frozenset(),
    loser_weight: float = 1.0,
    sft_weight: float = 0.0,
    anchor_weight: float = 0.0,
    adaptive_beta: float = 0.0,
    all_reduce: AllReduce = alone,
) -> PairObjective:
    """A pair objective with its knobs; a knob or a term at its neutral value leaves nothing behind. ValueError for a value out of range."""
    terms = tuple(term for term in terms if term is not None)
    if sft_weight:
        terms = (*terms, WinnerError(sft_weight))
    if anchor_weight:
        terms = (*terms, Anchor(anchor_weight))
    adaptive = AdaptiveBeta(beta, adaptive_beta, all_reduce=all_reduce) if adaptive_beta else None
    return PairObjective(reward, link, beta, terms, loser_weight, balanced, flipped, adaptive, weighting, ignores)
