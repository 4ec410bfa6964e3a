r"""Rows of ranked lists: orders, scores and levels."""

from diffalign.objectives.lists import CrossPairs, PlackettLuce, SwapGaps
from diffalign.objectives.listwise import ListObjective
from diffalign.objectives.objective import alone
from diffalign.objectives.options import BETA, SINGLE, SPREAD, inverse
from diffalign.objectives.rewards import LengthMean, LogRatio, PolicyEvidence
from diffalign.objectives.row import Option, Row
from diffalign.objectives.targets import (
    CrossEntropy,
    Extremes,
    NoiseContrast,
    Posterior,
    ReverseCrossEntropy,
    SoftmaxTarget,
    TemperedRanking,
)

SCORED = {"beta": BETA, "temperature": SPREAD}
SPPO_BETA = Option("inverse: rewards are regressed on relevance/beta, 500 nats at 1e-3", "1e-3 (1/eta)")


def _scored(shape):
    return lambda beta, temperature, all_reduce=alone: ListObjective(LogRatio(), shape(SoftmaxTarget(temperature)), beta)


ROWS = (
    Row(
        name="plackett-luce",
        title="DPO of whole orders (Plackett and Luce)",
        formula="sum_k [ log sum_(j >= k) exp(beta r_j) - beta r_k ],  samples in the order of their relevance;  two samples: dpo",
        paper="arXiv:2305.18290, appendix A.3",
        options={"beta": BETA},
        build=lambda beta, all_reduce=alone: ListObjective(LogRatio(), PlackettLuce(), beta),
        takes="rankings",
        refuses=SINGLE,
    ),
    Row(
        name="lipo",
        title="LiPO-lambda: lists, weighted by DCG at the ranks of the policy",
        formula="rankdpo with D at the rank of the present rewards, detached;  y the normalised reward",
        paper="arXiv:2402.01878",
        options={"beta": BETA},
        build=lambda beta, all_reduce=alone: ListObjective(LogRatio(), SwapGaps(by_model=True), beta),
        takes="rankings",
        refuses=SINGLE,
        unverified="that its ranks are the model's is from recollection",
    ),
    Row(
        name="infonca",
        title="InfoNCA: softmax of rewards against softmax of scores",
        formula="-sum_i q_i log softmax(beta r)_i,  q = softmax(relevance/temperature)",
        paper="arXiv:2402.05369, released code (its alpha is one over the paper's, and adds 0.01 to the first score)",
        options=SCORED,
        build=_scored(CrossEntropy),
        takes="rankings",
        refuses=SINGLE,
    ),
    Row(
        name="nca-list",
        title="NCA of K samples: holds the sum of the rewards too",
        formula="-(1/K) sum_i log sigma(-beta r_i) - sum_i q_i log sigma(beta r_i),  q as in infonca",
        paper="arXiv:2402.05369, released code",
        options=SCORED,
        build=_scored(NoiseContrast),
        takes="rankings",
        refuses=SINGLE,
    ),
    Row(
        name="exo-list",
        title="Efficient exact optimisation of K samples",
        formula="KL(softmax(beta r) || softmax(relevance/temperature))",
        paper="arXiv:2402.00856, released code (haozheji/exact-optimization): temperature is its beta_r",
        options=SCORED,
        build=_scored(ReverseCrossEntropy),
        takes="rankings",
        refuses=SINGLE,
    ),
    Row(
        name="adpo-anchored",
        title="Anchored direct preference optimisation (ADPO)",
        formula="KL(q || softmax(r/tau)),  q = softmax(standardised relevance/temperature),  reference = the anchor",
        paper="arXiv:2510.18913, its abstract and an excerpt of its code",
        options={
            "tau": Option("divides the anchored log-ratio: one over beta", "0.8, adaptive in the release", 0.8),
            "temperature": Option("divides the standardised scores", "0.5", 0.5),
        },
        build=lambda tau, temperature, all_reduce=alone: ListObjective(
            LogRatio(), CrossEntropy(SoftmaxTarget(temperature, standardised=True), less_entropy=True), inverse("tau", tau)
        ),
        takes="rankings",
        refuses=SINGLE | {"beta": "adpo-anchored's tau is one over beta"},
        unverified="the paper: how the deviation is taken, and the adaptive tau",
    ),
    Row(
        name="brain",
        title="BRAIn: posterior of a good response, on samples of a proposal",
        formula="-sum_i q_i log softmax(beta r)_i,  q in proportion to prior/reference sigma(relevance),  reference = the proposal",
        paper="arXiv:2402.02479, from our notes: the gradient is that of sum (q_i - softmax_i) log pi",
        options={"beta": Option("1 in the paper: the ratio to the proposal is taken as it is", "1", 1.0)},
        build=lambda beta, all_reduce=alone: ListObjective(LogRatio(), CrossEntropy(Posterior()), beta),
        takes="rankings",
        needs=frozenset({"reference", "extra:prior"}),
        refuses=SINGLE,
        unverified="the paper: its baseline gamma of a prompt, which is to be taken off the relevance",
    ),
    Row(
        name="pro",
        title="Preference ranking optimisation",
        formula="sum_k log sum_(j >= k) exp(T_kj m_j) - T_k m_k - nll_weight (n - 1)^2 policy of the best,  m = policy/size,  T gaps of R",
        paper="arXiv:2306.17492, released code (AlibabaResearch/DAMO-ConvAI)",
        options={"nll_weight": Option("weight of the best sample's likelihood, a sum over its tokens", "2 by default of the code", 2.0)},
        build=lambda nll_weight, all_reduce=alone: ListObjective(LengthMean(PolicyEvidence()), TemperedRanking(nll_weight), 1.0),
        takes="rankings",
        needs=frozenset({"size"}),
        refuses=SINGLE | {"beta": "the gaps of relevance are pro's temperatures", "sft_weight": "its nll_weight is that term"},
    ),
    Row(
        name="trpa",
        title="Trust region preference approximation: pairs across levels",
        formula="mean of -log sigma(c_i beta (r_i - r_j)), i above j;  c_i = anisotropy of a top i or 1,   r = (policy - reference)/size",
        paper="arXiv:2504.04524, released code;  reference = the old policy",
        options={
            "beta": Option("strength; multiplies the mean log-ratio of a token once, per nat", "0.1"),
            "anisotropy": Option("how much more pairs below a top sample are spread", "2.5", 2.5),
            "top": Option("relevance of the top level", "level 1 of 4; relevance 0 with -1, -2, -3 below", 0.0),
        },
        build=lambda beta, anisotropy, top, all_reduce=alone: ListObjective(LengthMean(), CrossPairs(beta, anisotropy, top), beta),
        takes="rankings",
        needs=frozenset({"reference", "size"}),
        refuses=SINGLE,
    ),
    Row(
        name="sppo",
        title="Self-play preference optimisation, as published",
        formula="1/2 sum over best and worst of (r - (P - 1/2)/beta)^2,  P = relevance, the mean probability to win (recipes.win_rates)",
        paper="arXiv:2405.00675, released code (uclaml/SPPO);  reference = the previous policy",
        options={"beta": SPPO_BETA},
        build=lambda beta, all_reduce=alone: ListObjective(LogRatio(), Extremes(beta), beta),
        takes="rankings",
        refuses=SINGLE,
    ),
    Row(
        name="general-preference",
        title="General preference optimisation with a general preference model (GPO, GPM)",
        formula="1/2 sum over best and worst of (r - s/beta)^2,  s = relevance, the mean skew-symmetric score (recipes.skew_scores)",
        paper="arXiv:2410.02197, released code (loss_type sppo_score)",
        options={"beta": SPPO_BETA},
        build=lambda beta, all_reduce=alone: ListObjective(LogRatio(), Extremes(beta, offset=0.0), beta),
        takes="rankings",
        refuses=SINGLE,
    ),
)  # fmt: skip
