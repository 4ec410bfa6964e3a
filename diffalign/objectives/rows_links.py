r"""Rows of pairs that compare log-ratios by another link, another score of the ratio, another side, or with a weight."""

from diffalign.objectives.gaps import GapKL, GapRegression, GapReverseKL
from diffalign.objectives.links import DiscoPOP, Logistic, ReverseKL, Robust, Squared
from diffalign.objectives.options import (
    BETA,
    ETA,
    GAP,
    KNOBS,
    LOGISTIC,
    NO_SMOOTH,
    NO_SMOOTHING,
    NOT_LOGISTIC,
    RATIO,
    SMOOTHING,
    inverse,
    logistic,
    pair,
)
from diffalign.objectives.rewards import LengthMean, LogRatio, ScaledReference
from diffalign.objectives.row import Option, Row
from diffalign.objectives.scores import JensenShannon, Penalised, Power
from diffalign.objectives.sides import ConditionalReference, EachSide, SortedMargins, SortedRewards
from diffalign.objectives.weights import PromptNearness, SelfAgreement

WITH_SIZE = frozenset({"reference", "size"})
AGREEMENT = frozenset({"reference", "extra:self_agreement"})
PER_TOKEN = Option("strength; multiplies the mean log-ratio of a token once, per nat", "5 (Tulu 3; TRL leaves its 0.1)")
TAU = "tau of the paper, TRL's beta: 1/(2 beta) is what the margin is regressed on"
REWARD_AWARE = "NeMo-Aligner's code (megatron_gpt_dpo_model.py), as our notes have it"
NO_PAIRS_LEFT = {
    "loser_weight": "aot matches sorted samples, and the rejected side of a match is not the pair's",
    "sft_weight": "aot matches sorted samples, and the winner of a match is not the pair's",
    "anchor_weight": "aot matches sorted samples, and the sides of a match are not the pair's",
    **NOT_LOGISTIC,
}


def _aot(reward):
    return lambda beta, label_smoothing, **ranks: pair(reward, Logistic(label_smoothing), beta, **ranks)


ROWS = (
    Row(
        name="robust-dpo",
        title="Provably robust DPO: unbiased under flipped labels",
        formula="[-(1 - eps) log sigma(z) + eps log sigma(-z)] / (1 - 2 eps),  eps = label_smoothing;  unbounded below",
        paper="arXiv:2403.00409; as in TRL",
        options={"beta": BETA, "label_smoothing": SMOOTHING, **KNOBS},
        build=lambda beta, label_smoothing, **knobs: pair(LogRatio(), Robust(label_smoothing), beta, **knobs),
        refuses=NOT_LOGISTIC,
    ),
    Row(
        name="ipo-mean",
        title="Identity preference optimisation, on means over tokens (TRL's ipo)",
        formula="(h - (q - 1/2)/beta)^2,  h = z/beta,  r = (policy - reference)/size",
        paper="arXiv:2310.12036; the mean is TRL's, which says that the authors confirmed it",
        options={"beta": Option(TAU, "0.1"), "label_smoothing": NO_SMOOTHING, **KNOBS},
        build=lambda beta, label_smoothing, **knobs: pair(LengthMean(), Squared(beta, label_smoothing), beta, **knobs),
        needs=WITH_SIZE,
        refuses=NOT_LOGISTIC,
    ),
    Row(
        name="sigmoid-norm",
        title="DPO on means over tokens",
        formula="dpo with r = (policy - reference)/size",
        paper="Tulu 3, as in TRL's sigmoid_norm (not RSO's sigmoid-norm, which is dpo)",
        options={**LOGISTIC, "beta": PER_TOKEN},
        build=logistic(LengthMean()),
        needs=WITH_SIZE,
    ),
    Row(
        name="exo",
        title="Efficient exact optimisation, of a pair",
        formula="KL(Bernoulli(sigma(z)) || Bernoulli(q)),  q = p (1 - eps) + (1 - p) eps,  eps = label_smoothing;  dmpo at another eps",
        paper="arXiv:2402.00856, eq. 16 as in TRL",
        options={"beta": BETA, "label_smoothing": Option(SMOOTHING.unit.replace("[0", "(0"), "1e-3", 1e-3), **KNOBS},
        build=lambda beta, label_smoothing, **knobs: pair(LogRatio(), ReverseKL(label_smoothing, exact=True), beta, **knobs),
        refuses=NOT_LOGISTIC,
    ),
    Row(
        name="reward-aware-bwd-kl",
        title="Reward-aware preference optimisation, backward KL (rpo_bwd_kl)",
        formula="KL(Bernoulli(p) || Bernoulli(sigma(z))),  p = sigma(eta (R_w - R_l)),  the gap of R as margin, z without it",
        paper=REWARD_AWARE,
        options={"beta": BETA, "eta": ETA, **KNOBS},
        build=lambda beta, eta, **knobs: pair(LogRatio(), GapKL(eta), beta, **knobs),
        refuses=GAP | NOT_LOGISTIC,
    ),
    Row(
        name="reward-aware-fwd-kl",
        title="Reward-aware preference optimisation, forward KL (rpo_fwd_kl)",
        formula="KL(Bernoulli(sigma(z)) || Bernoulli(p)),  p = sigma(eta (R_w - R_l)),  the gap of R as margin, z without it",
        paper=REWARD_AWARE,
        options={"beta": BETA, "eta": ETA, **KNOBS},
        build=lambda beta, eta, **knobs: pair(LogRatio(), GapReverseKL(eta), beta, **knobs),
        refuses=GAP | NOT_LOGISTIC,
    ),
    Row(
        name="reward-aware-sq",
        title="Reward-aware preference optimisation, squared (rpo_sq)",
        formula="(z - eta (R_w - R_l))^2,  the gap of R as margin, z without it",
        paper=REWARD_AWARE,
        options={"beta": BETA, "eta": ETA, **KNOBS},
        build=lambda beta, eta, **knobs: pair(LogRatio(), GapRegression(eta), beta, **knobs),
        refuses=GAP | NOT_LOGISTIC,
    ),
    Row(
        name="rebel",
        title="REBEL: log-ratios regressed on rewards (REFUEL on the tokens of a turn, with future returns)",
        formula="(r_w - r_l - eta (R_w - R_l))^2,  the gap of R as margin;  reference = the previous policy",
        paper="arXiv:2404.16767; REFUEL arXiv:2410.04612. The papers divide by eta, which only scales the loss",
        options={"eta": Option("nats of log-ratio a unit of reward", "1 in their notation of our notes", 1.0), **KNOBS},
        build=lambda eta, **knobs: pair(LogRatio(), GapRegression(eta), 1.0, **knobs),
        refuses=GAP | NOT_LOGISTIC | {"beta": "rebel compares log-ratios with eta times the gap: 1/eta is its beta"},
    ),
    Row(
        name="egpo",
        title="Extragradient preference optimisation: the regression of its two steps",
        formula="(r_w - r_l - (P_w - P_l)/beta)^2,  the difference of the two probabilities to win (against a third sample) as margin",
        paper="arXiv:2503.08942, its toy code",
        options={"beta": Option("strength of the divergence; divides the gap of probabilities", "unknown: paper not read"), **KNOBS},
        build=lambda beta, **knobs: pair(LogRatio(), GapRegression(inverse("beta", beta)), 1.0, **knobs),
        refuses=GAP | NOT_LOGISTIC,
        unverified="the paper; the extragradient itself (gradients at a half step, applied to the start) is the optimiser's",
    ),
    Row(
        name="f-dpo-js",
        title="f-DPO, Jensen-Shannon divergence",
        formula="dpo with r = log 2 + log sigma(policy - reference)",
        paper="arXiv:2309.16240; as in TRL",
        options=LOGISTIC,
        build=logistic(JensenShannon()),
    ),
    Row(
        name="f-dpo-forward-kl",
        title="f-DPO, forward KL divergence",
        formula="dpo with r = 1 - exp(-(policy - reference))",
        paper="arXiv:2309.16240; as in TRL",
        options=LOGISTIC,
        build=logistic(Power(power=-1.0)),
    ),
    Row(
        name="f-dpo-alpha",
        title="f-DPO, alpha-divergence",
        formula="dpo with r = (u^(alpha - 1) - 1)/(alpha - 1),  u = exp(policy - reference);  alpha 1: dpo, 0: f-dpo-forward-kl",
        paper="arXiv:2309.16240; alpha as in TRL now (in TRL before its refactoring: 1 - alpha)",
        options={**LOGISTIC, "alpha": Option("order of the divergence", "0.5 (TRL)", 0.5)},
        build=lambda alpha, **options: logistic(Power(power=alpha - 1))(**options),
    ),
    Row(
        name="discopop",
        title="DiscoPOP: log-ratio modulated loss",
        formula="(1 - m) (-log sigma(z)) + m exp(-z),  m = sigma(z/tau)",
        paper="arXiv:2406.08414, eq. 5 as in TRL",
        options={**RATIO, "tau": Option("width of the change from logistic to exponential, in units of z, in (0, 1]", "0.05", 0.05)},
        build=lambda beta, tau, **knobs: pair(LogRatio(), DiscoPOP(tau), beta, **knobs),
        refuses=NO_SMOOTH | NOT_LOGISTIC,
    ),
    Row(
        name="dpo-gamma",
        title="DPO with a scaled reference margin (DPO^gamma)",
        formula="dpo with r = policy - gamma reference;  gamma 1: dpo, 0: cpo without its likelihood",
        paper="arXiv:2405.19534, from reviews",
        options={**LOGISTIC, "gamma": Option("share of the reference's margin that is taken off", "unknown: the paper was not read", 1.0)},
        build=lambda gamma, **options: logistic(ScaledReference(gamma))(**options),
        unverified="the paper",
    ),
    Row(
        name="dpo-conditional-reference",
        title="Hybrid-DPO: the reference's margin only where it is right",
        formula="-log sigma(beta ((lp_w - lp_l) - max(0, rf_w - rf_l)))",
        paper="arXiv:2602.11902, its abstract",
        options=LOGISTIC,
        build=logistic(ConditionalReference()),
        unverified="the body of the paper",
    ),
    Row(
        name="dpop",
        title="DPO-positive (Smaug): no falling chosen likelihood",
        formula="dpo with r_w = a - penalty max(0, -a),  a = policy - reference of the chosen",
        paper="arXiv:2402.13228, from summaries (not arXiv:2606.12505, another DPOP)",
        options={**LOGISTIC, "penalty": Option("lambda: how much more a chosen log-ratio below 0 counts", "50, beta 0.3", 50.0)},
        build=lambda penalty, **options: logistic(EachSide(Penalised(penalty=penalty), LogRatio()))(**options),
        unverified="the paper; some code has the penalty outside beta",
    ),
    Row(
        name="aot",
        title="Alignment via optimal transport, paired",
        formula="-q log sigma(z) - (1 - q) log sigma(-z),  z = beta (sort(lp_w - lp_l) - sort(rf_w - rf_l)),  q = 1 - eps",
        paper="arXiv:2406.05882; as in TRL",
        options={"beta": Option(BETA.unit, "0.01"), "label_smoothing": NO_SMOOTHING},
        build=_aot(SortedMargins()),
        refuses=NO_PAIRS_LEFT,
        couples="call",
    ),
    Row(
        name="aot-unpaired",
        title="Alignment via optimal transport, unpaired",
        formula="-q log sigma(z) - (1 - q) log sigma(-z),  z = beta (sort(a) - sort(b)),  a, b log-ratios of chosen and rejected",
        paper="arXiv:2406.05882; as in TRL",
        options={"beta": Option(BETA.unit, "0.01"), "label_smoothing": NO_SMOOTHING},
        build=_aot(SortedRewards()),
        refuses=NO_PAIRS_LEFT,
        couples="call",
    ),
    Row(
        name="wpo",
        title="Weighted preference optimisation: pairs the policy would write",
        formula="w dpo,  w = sg[min(1, exp(A_w + A_l))],  A = mean_t of log pi(y_t) - log sum_v pi(v)^2",
        paper="arXiv:2406.11827, eq. 2 and released code (wzhouad/WPO)",
        options=LOGISTIC,
        build=lambda **options: logistic(LogRatio())(weighting=SelfAgreement(), **options),
        needs=AGREEMENT,
    ),
    Row(
        name="wpo-trl",
        title="Weighted preference optimisation as in TRL: without a cap",
        formula="w dpo,  w = sg[exp(A_w + A_l)],  A as in wpo",
        paper="TRL's use_weighting with loss_type sigmoid",
        options=LOGISTIC,
        build=lambda **options: logistic(LogRatio())(weighting=SelfAgreement(capped=False), **options),
        needs=AGREEMENT,
    ),
    Row(
        name="sem-dpo",
        title="Sem-DPO: rewritten prompts that keep their meaning",
        formula="w dpo,  w = exp(-alpha d),  d = 1 - cos of the embeddings of prompt and chosen response",
        paper="arXiv:2507.20133, from summaries",
        options={**LOGISTIC, "alpha": Option("how fast the weight falls with the distance", "unknown: the paper was not read", 1.0)},
        build=lambda alpha, **options: logistic(LogRatio())(weighting=PromptNearness(alpha), **options),
        needs=frozenset({"reference", "extra:prompt_distance"}),
        unverified="the paper",
    ),
)  # fmt: skip
