r"""The rows that diffusion methods are made of; those of language models too. Methods without a row are settings of one (aliases.py):

    SmPO, InPO, DCPO, SPIN, Flow-DPO, Tango 2    dpo; what differs is where samples, x_t, captions or reference come from
                                                 (SmPO's soft label 10 (2p - 1) is Comparison.scale)
    Diffusion-NPO                                dpo with chosen and rejected swapped
    Flow-RWR, e^R * error of every sample        sft with probability sigma(R_w - R_l) and weight e^R_w + e^R_l (arXiv:2501.13918,
                                                 not verified against the paper)
"""

from diffalign.objectives.links import Hinge, Logistic, Regression, ReverseKL, Sigmoid, Squared
from diffalign.objectives.lists import SwapGaps
from diffalign.objectives.listwise import ListObjective
from diffalign.objectives.objective import alone
from diffalign.objectives.options import (
    ANCHOR_WEIGHT,
    BETA,
    KNOBS,
    LOGISTIC_KNOBS,
    NO_SCALE,
    NO_SMOOTHING,
    NO_ZERO,
    NOT_LOGISTIC,
    SINGLE,
    SMOOTHING,
    pair,
)
from diffalign.objectives.pairterms import LinearWeight, ScoreMatching, WinnerError
from diffalign.objectives.pointwise import SampleObjective
from diffalign.objectives.rewards import LogRatio, PolicyEvidence
from diffalign.objectives.row import Option, Row
from diffalign.objectives.scores import ErrorRatio
from diffalign.objectives.wrapped import Weighted

MAPO_SFT = Option(unit="multiplies the winner's error, MaPO's other half", published="1", default=1.0)


def _mapo(beta, multiplier, snr, label_smoothing, sft_weight, **knobs):
    return pair(ErrorRatio(snr), Weighted(Logistic(label_smoothing), beta), multiplier, sft_weight=sft_weight, **knobs)


def _mapo_paper(beta, label_smoothing, sft_weight, **knobs):
    return pair(ErrorRatio(1.0, beta), Weighted(Logistic(label_smoothing), 1 / beta), 1.0, sft_weight=sft_weight, **knobs)


PAIRS = (
    Row(
        name="dpo",
        title="Direct preference optimisation",
        formula="-p log sigma(z) - (1 - p) log sigma(-z),  r = policy - reference",
        paper="arXiv:2305.18290, eq. 7; for diffusion arXiv:2311.12908, eq. 14",
        options={"beta": BETA, **LOGISTIC_KNOBS},
        build=lambda beta, **knobs: pair(LogRatio(), Logistic(), beta, **knobs),
        refuses={"label_smoothing": "label_smoothing belongs to cdpo"},
    ),
    Row(
        name="cdpo",
        title="Conservative DPO: labels smoothed",
        formula="-q log sigma(z) - (1 - q) log sigma(-z),  q = p (1 - eps) + (1 - p) eps,  eps = label_smoothing,  r as in dpo",
        paper="Mitchell 2023, A note on DPO with noisy preferences and relationship to IPO",
        options={"beta": BETA, "label_smoothing": SMOOTHING, **LOGISTIC_KNOBS},
        build=lambda beta, label_smoothing, **knobs: pair(LogRatio(), Logistic(label_smoothing), beta, **knobs),
    ),
    Row(
        name="ipo",
        title="Identity preference optimisation, on sums",
        formula="(h - (q - 1/2)/beta)^2,  h = z/beta,  q as in cdpo,  r = policy - reference (a sum over tokens; TRL's a mean)",
        paper="arXiv:2310.12036",
        options={"beta": BETA, "label_smoothing": NO_SMOOTHING, **KNOBS},
        build=lambda beta, label_smoothing, **knobs: pair(LogRatio(), Squared(beta, label_smoothing), beta, **knobs),
        refuses=NOT_LOGISTIC,
    ),
    Row(
        name="hinge",
        title="Hinge on the DPO margin",
        formula="p max(0, 1 - z) + (1 - p) max(0, 1 + z),  r = policy - reference",
        paper="arXiv:2309.06657 (its hinge loss); the shape is SLiC's, arXiv:2305.10425",
        options={"beta": BETA, **KNOBS},
        build=lambda beta, **knobs: pair(LogRatio(), Hinge(), beta, **knobs),
        refuses={"label_smoothing": "label_smoothing is defined for logistic links and ipo; give soft labels, p = 1 - eps", **NOT_LOGISTIC},
    ),
    Row(
        name="dmpo",
        title="Reverse KL of the preference (DMPO)",
        formula="KL(Bernoulli(sigma(z)) || Bernoulli(q)),  q = p (1 - alpha) + (1 - p) alpha,  r = policy - reference",
        paper="arXiv:2507.07510; formula from the re-implementation AIDC-AI/Diffusion-SDPO",
        unverified="the paper",
        options={
            "beta": BETA,
            "alpha": Option("share of labels taken to be wrong, in (0, 0.5)", "0.01, with beta 2000 for SD 1.5 (Diffusion-SDPO)", 0.01),
            **KNOBS,
        },
        build=lambda beta, alpha, **knobs: pair(LogRatio(), ReverseKL(alpha), beta, **knobs),
        refuses={"label_smoothing": "dmpo's alpha is its label smoothing", **NOT_LOGISTIC},
    ),
    Row(
        name="capo",
        title="Calibrated preference optimisation: regression on the gap of two rewards",
        formula="(beta (r_chosen - r_rejected) - (R_chosen - R_rejected))^2 = z^2,  the gap of R as margin,  r = policy - reference",
        paper="arXiv:2502.02588",
        unverified="the paper: the exact scaling of its reward is unknown",
        options={"beta": BETA, **KNOBS},
        build=lambda beta, **knobs: pair(LogRatio(), Regression(), beta, **knobs),
        refuses={"label_smoothing": "capo has no labels: the gap of the calibrated rewards goes into the margin", **NOT_LOGISTIC},
    ),
    Row(
        name="sdpo",
        title="Diffusion-SDPO: DPO that may not raise the winner's error",
        formula="dpo with r_rejected = sg[r] + balance (r - sg[r]),  balance measured by the step",
        paper="arXiv:2511.03317, released code (AIDC-AI/Diffusion-SDPO)",
        options={"beta": BETA, "label_smoothing": NO_SMOOTHING, **LOGISTIC_KNOBS},
        build=lambda beta, label_smoothing, **knobs: pair(LogRatio(), Logistic(label_smoothing), beta, balanced=True, **knobs),
        needs=frozenset({"reference", "extra:balance"}),
    ),
    Row(
        name="seppo",
        title="Semi-policy preference optimisation: a rejected sample that flips",
        formula="dpo with z = beta (r_chosen - s r_rejected),  s = 1 where sg[r_chosen] >= 0, else -1",
        paper="arXiv:2410.05255; from reviews (there is no training code)",
        unverified="the paper",
        options={"beta": BETA, "label_smoothing": NO_SMOOTHING, **LOGISTIC_KNOBS},
        build=lambda beta, label_smoothing, **knobs: pair(LogRatio(), Logistic(label_smoothing), beta, flipped=True, **knobs),
    ),
    Row(
        name="dspo",
        title="Direct score preference optimisation",
        formula="l^w - 2 k cross^w + k^2 drift^w,  k = beta sigma(-z),  r = policy - reference",
        paper="the released code (huaishengzhu/DSPO), SD 1.5 branch",
        unverified="the paper",
        options={"beta": Option(BETA.unit + "; also multiplies the pull", "0.001, 0.01 or 0.05 for SD 1.5"), **KNOBS},
        build=lambda beta, **knobs: pair(LogRatio(), None, beta, terms=(ScoreMatching(beta),), **knobs),
        needs=frozenset({"reference", "extra:drift", "extra:cross"}),
        refuses={"label_smoothing": "dspo has no link; give soft labels, p = 1 - eps", **NOT_LOGISTIC},
    ),
    Row(
        name="linear-dpo",
        title="Linear-DPO: weighted difference of errors",
        formula="w (l^w - l^l),  w = sg[clamp(1/2 - 0.4 z, eta, 1 - eta)],  r = policy - reference",
        paper="arXiv:2605.21123, released code (WhynotChen0105/Linear-DPO)",
        options={
            "beta": Option(BETA.unit, "100 for SD 1.5, 500 for SDXL (the linear launchers); 1000 to 5000 in its other scripts"),
            "eta": Option("least weight of a pair, in [0, 0.5)", "0.001 for SD 1.5, 0 for SDXL", 0.0),
            **KNOBS,
        },
        build=lambda beta, eta, **knobs: pair(LogRatio(), None, beta, terms=(LinearWeight(eta),), **knobs),
        refuses={"label_smoothing": "linear-dpo has no link; give soft labels, p = 1 - eps", **NOT_LOGISTIC},
    ),
    Row(
        name="mapo",
        title="Margin-aware preference optimisation, as released (paper v1)",
        formula="sft_weight l^w - beta log sigma(z),  z = multiplier (phi(l^w) - phi(l^l)),  phi(l) = snr l / (exp(snr l) - 1)",
        paper="arXiv:2406.06424, released code (mapo-t2i/mapo, utils.py)",
        options={
            "beta": Option("weight of the margin's loss", "0.1", 0.1),
            "multiplier": Option("multiplies the difference of phi; the release's T", "1000", 1000.0),
            "snr": Option("the release's snr_value s, per unit of error", "0.5", 0.5),
            "label_smoothing": NO_SMOOTHING,
            "sft_weight": MAPO_SFT,
            "anchor_weight": ANCHOR_WEIGHT,
        },
        build=_mapo,
        needs=frozenset(),
        refuses=NO_ZERO | NO_SCALE,
    ),
    Row(
        name="mapo-paper",
        title="Margin-aware preference optimisation, as in version 2 of the paper",
        formula="sft_weight l^w - 1/beta log sigma(z),  z = phi(l^w) - phi(l^l),  phi(l) = (l / (exp(l) - 1))^beta",
        paper="arXiv:2406.06424v2; another function than the released code's",
        options={
            "beta": Option("exponent of phi, and one over the weight of the margin's loss",
                           "8 general preference, 32 cultural, 64 safety and style, 1024 personalisation", 8.0),
            "label_smoothing": NO_SMOOTHING,
            "sft_weight": MAPO_SFT,
            "anchor_weight": ANCHOR_WEIGHT,
        },
        build=_mapo_paper,
        needs=frozenset(),
        refuses=NO_ZERO | NO_SCALE,
    ),
    Row(
        name="sft",
        title="Supervised finetuning on the winners",
        formula="p l^w + (1 - p) l^l;  scale and margin of the comparison compare nothing and are not read",
        paper="baseline of arXiv:2311.12908",
        options={"anchor_weight": ANCHOR_WEIGHT},
        build=lambda **knobs: pair(
            PolicyEvidence(), None, 1.0, terms=(WinnerError(),), ignores=frozenset({"scale", "margin"}), **knobs
        ),
        needs=frozenset(),
        refuses={
            "beta": "sft compares nothing: the learning rate is its strength",
            "sft_weight": "sft is the winner's error already",
            "loser_weight": "sft does not read the loser",
            "label_smoothing": "sft has no link; give soft labels, p = 1 - eps",
            "adaptive_beta": "sft has no beta",
        },
    ),
)  # fmt: skip

OTHERS = (
    Row(
        name="kto",
        title="Kahneman-Tversky optimisation: single samples, liked or not",
        formula="lambda (1 - sigma(+-beta (r - q0))),  q0 = sg[max(0, mean r)],  r = policy - reference",
        paper="arXiv:2402.01306; for diffusion arXiv:2404.04465, released code (jacklishufan/diffusion-kto)",
        options={
            "beta": Option(BETA.unit, "2000 for SD 1.5 (the release writes 1000, on errors without the one half); 0.1 for text"),
            "desirable_weight": Option("lambda+, of the samples that are liked", "1", 1.0),
            "undesirable_weight": Option("lambda-, of those that are not", "1", 1.0),
        },
        build=lambda beta, desirable_weight, undesirable_weight, all_reduce=alone: SampleObjective(
            LogRatio(), Sigmoid(), beta, desirable_weight, undesirable_weight, all_reduce
        ),
        takes="labels",
        refuses=SINGLE,
        couples="ranks",
    ),
    Row(
        name="rankdpo",
        title="RankDPO: lists, weighted by DCG",
        formula="-sum_ij Delta_ij log sigma(beta (r_i - r_j)), i better,  Delta_ij = |2^y_i - 2^y_j| |1/D_i - 1/D_j|,  D = log(1 + rank)",
        paper="arXiv:2410.18013",
        options={"beta": Option(BETA.unit + " (the paper's, on errors without the one half, is half of it)", BETA.published)},
        build=lambda beta, all_reduce=alone: ListObjective(LogRatio(), SwapGaps(), beta),
        takes="rankings",
        refuses=SINGLE,
    ),
)  # fmt: skip
