r"""Rows of pairs that read what a text step measures beside sums of log-probabilities: other sums, other conditions, other models.

What each `extra:NAME` holds is in extras.py.
"""

from diffalign.objectives.links import Logistic
from diffalign.objectives.objective import alone
from diffalign.objectives.options import (
    ANCHOR_WEIGHT,
    LOGISTIC,
    NO_MARGIN,
    NO_SCALE,
    NO_SMOOTH,
    NO_SMOOTHING,
    NO_ZERO,
    OWN_NLL,
    logistic,
    pair,
)
from diffalign.objectives.pairterms import Likelihood, Points
from diffalign.objectives.rewards import LengthMean, LogRatio, Named, Plus, PolicyEvidence
from diffalign.objectives.row import Option, Row
from diffalign.objectives.scores import Odds
from diffalign.objectives.sides import EachSide
from diffalign.objectives.textterms import Added, AddedOfPair, ConditionContrast, Optimism, Rationale, SpectralTriplet
from diffalign.objectives.wrapped import Weighted

MEAN = LengthMean(PolicyEvidence())
DISTILS = NO_MARGIN | NO_SMOOTH | NO_SCALE | {"beta": "its strength is in the extra that the step measures, and in the learning rate"}
CONTRAST = frozenset({"reference", "extra:contrast"})
GAMMA_R = Option("multiplies the rationale's log-probability inside the log-sigmoid", "unknown: the paper was not read", 1.0)


def _needs(*names):
    return frozenset({"reference", *(f"extra:{name}" for name in names)})


def _contrast(anchor=None, weight=1.0):
    def build(beta, label_smoothing, contrast_weight=weight, frequency_weight=None, **knobs):
        triplet = None if frequency_weight is None else SpectralTriplet(frequency_weight)
        terms = (ConditionContrast(beta, contrast_weight), anchor, triplet)
        return pair(LogRatio(), Logistic(label_smoothing), beta, terms=terms, **knobs)

    return build


def _tgdpo(beta, alpha, **options):
    share = alpha * beta
    return logistic(EachSide(Plus(LogRatio(), "guided", share), Plus(LogRatio(), "guided", -share)))(beta, **options)


def _with(term):
    return lambda beta, label_smoothing, weight, **knobs: pair(LogRatio(), Logistic(label_smoothing), beta, terms=(term(weight),), **knobs)


def _rationale_orpo(odds_weight, gamma, label_smoothing, all_reduce=alone, **knobs):
    link, terms = Weighted(Logistic(label_smoothing), odds_weight), (Likelihood(1.0), Rationale(gamma, mean=True))
    return pair(Odds(), link, 1.0, terms=terms, all_reduce=all_reduce, **knobs)


TOKENS = (
    Row(
        name="ld-dpo",
        title="Length-desensitised DPO: tokens beyond the shorter response count less",
        formula="dpo with r = (policy - reference) - (1 - alpha) tail;  alpha 1: dpo",
        paper="arXiv:2409.06411; as in TRL's ld_alpha, of policy and reference alike (LLaMA-Factory: of the policy only)",
        options={**LOGISTIC, "alpha": Option("what a token beyond the shorter length counts, in [0, 1]", "0.5", 0.5)},
        build=lambda alpha, **options: logistic(Plus(LogRatio(), "tail", alpha - 1))(**options),
        needs=_needs("tail"),
    ),
    Row(
        name="tdpo1",
        title="Token-level DPO, first form",
        formula="dpo with r = (policy - reference) + K,  K = sum_t KL_t(ref || pi)",
        paper="arXiv:2404.11999; as in the AlignDistil and TARS trainers",
        options=LOGISTIC,
        build=logistic(Plus(LogRatio(), "sequential_kl")),
        needs=_needs("sequential_kl"),
    ),
    Row(
        name="tdpo2",
        title="Token-level DPO, second form",
        formula="dpo with r_w = a + alpha sg[K_w],  r_l = b + alpha K_l,  K as in tdpo1",
        paper="arXiv:2404.11999; as in the AlignDistil and TARS trainers",
        options={**LOGISTIC, "alpha": Option("weight of the divergence", "0.5", 0.5)},
        build=lambda alpha, **options: logistic(
            EachSide(Plus(LogRatio(), "sequential_kl", alpha, detach=True), Plus(LogRatio(), "sequential_kl", alpha))
        )(**options),
        needs=_needs("sequential_kl"),
    ),
    Row(
        name="sparse-po",
        title="SparsePO: masks over tokens",
        formula="dpo with r = sum_t m_u(t) lr_t + sum_t m_d(t) KL_t(ref || pi);  masks (1, 0): dpo, (1, 1): tdpo1",
        paper="arXiv:2410.05102, released code (huawei-noah/HEBO)",
        options=LOGISTIC,
        build=logistic(Plus(Named("masked"), "masked_kl")),
        needs=_needs("masked", "masked_kl"),
    ),
    Row(
        name="tgdpo",
        title="TGDPO: token rewards of a guide trained by DPO",
        formula="dpo with r_w = a + alpha beta g_w,  r_l = b - alpha beta g_l,  g = sum_t sg[guide's log-ratio]_t lr_t",
        paper="arXiv:2506.14574, released code (dvlab-research/TGDPO)",
        options={**LOGISTIC, "alpha": Option("strength of the guidance", "0.5, beta 0.1", 0.5)},
        build=_tgdpo,
        needs=_needs("guided"),
    ),
    Row(
        name="align-distil",
        title="AlignDistil: token-level distillation of an extrapolated teacher",
        formula="d_w + d_l,  d = sum_t beta_t KL(pi || teacher),  teacher logits w dpo + (1 - w) ref, or a contrast, beta_t = beta/w_t",
        paper="arXiv:2503.02832, released code (songmzhang/AlignDistil): the teacher is built by the step",
        options={"anchor_weight": ANCHOR_WEIGHT},
        build=lambda **knobs: pair(MEAN, None, 1.0, terms=(Added("distillation"),), **knobs),
        needs=frozenset({"size", "extra:distillation"}),
        refuses=DISTILS | {"sft_weight": "align-distil compares with a teacher, and both responses alike"},
    ),
    Row(
        name="dckd",
        title="DCKD: distillation of an aligned teacher on both responses",
        formula="-policy_w/size_w + teacher_kl_w + teacher_kl_l,  teacher_kl = sum_t KL(teacher || pi)",
        paper="arXiv:2502.17927, its README",
        options={"kl_weight": Option("weight of both divergences", "unknown: the paper was not read", 1.0), "anchor_weight": ANCHOR_WEIGHT},
        build=lambda kl_weight, **knobs: pair(MEAN, None, 1.0, terms=(Likelihood(), Added("teacher_kl", kl_weight)), **knobs),
        needs=frozenset({"size", "extra:teacher_kl"}),
        refuses=DISTILS | OWN_NLL,
        unverified="paper and code: weights and normalisation of the three parts",
    ),
    Row(
        name="adpa",
        title="ADPA: advantage of an aligned teacher on the policy's own responses",
        formula="-policy_w/size_w - gamma advantage,  advantage = sum_t sum_v pi(v) (log teacher(v) - log teacher's reference(v))",
        paper="arXiv:2502.17927, its README; form of the advantage as in AlignDistil's code",
        options={"gamma": Option("weight of the advantage", "unknown: the paper was not read"), "anchor_weight": ANCHOR_WEIGHT},
        build=lambda gamma, **knobs: pair(MEAN, None, 1.0, terms=(Likelihood(), AddedOfPair("advantage", -gamma)), **knobs),
        needs=frozenset({"size", "extra:advantage"}),
        refuses=DISTILS | OWN_NLL,
        unverified="paper and code; linear in the policy, so unbounded in the advantage",
    ),
)  # fmt: skip

CONDITIONS = (
    Row(
        name="re-align",
        title="Re-Align: DPO of responses and of images (rDPO with retrieval)",
        formula="dpo - contrast_weight log sigma(beta (a - c)),  c the chosen response's log-ratio with the retrieved image",
        paper="arXiv:2502.13146, released code (taco-group/Re-Align)",
        options={**LOGISTIC, "contrast_weight": Option("weight of the images' pair", "1", 1.0)},
        build=_contrast(),
        needs=CONTRAST,
    ),
    Row(
        name="mdpo",
        title="mDPO: conditional preference optimisation with an anchor",
        formula="dpo - contrast_weight log sigma(beta (a - c)) - log sigma(beta a),  c with the corrupted image",
        paper="arXiv:2406.11839, from our notes",
        options={**LOGISTIC, "contrast_weight": Option("weight of the images' pair", "1", 1.0)},
        build=_contrast(Points(Logistic(), dislike=0.0)),
        needs=CONTRAST,
        unverified="the paper",
    ),
    Row(
        name="opa-dpo",
        title="OPA-DPO: revised responses, masked images and an anchor",
        formula="dpo - contrast_weight log sigma(beta (a - c)) - log sigma(x_w) - log sigma(-x_l),  x = beta r,  c with a masked image",
        paper="arXiv:2501.09695, released code (zhyang2226/OPA-DPO): its two pairs a record are two pairs of the comparison",
        options={**LOGISTIC, "contrast_weight": Option("weight of the images' pair", "0.2", 0.2)},
        build=_contrast(Points(Logistic())),
        needs=CONTRAST,
        unverified="deviates: the release takes the log-sigmoid at every token position and then the mean; here it is of the sums",
    ),
    Row(
        name="tars",
        title="TARS: token-adaptive perturbation, a noised image, and spectra",
        formula="dpo - log sigma(beta (a - c)) + frequency_weight max(0, spectral_gap + 1/2),  perturbed tokens, c with the noised image",
        paper="arXiv:2507.21584, released code (KejiaZhang-Robust/TARS)",
        options={**LOGISTIC, "frequency_weight": Option("weight of the spectra (beta_fre)", "unknown: the paper was not read")},
        build=_contrast(),
        needs=_needs("contrast", "spectral_gap"),
    ),
    Row(
        name="rationale-dpo",
        title="DPO beside a rationale of the choice",
        formula="dpo - log sigma(gamma log pi(rationale)),  a sum over its tokens",
        paper="arXiv:2407.14477, released code (reds-lab)",
        options={**LOGISTIC, "weight": GAMMA_R},
        build=_with(Rationale),
        needs=_needs("rationale"),
        unverified="the paper's own form, said to be gamma times the rationale's negative log-likelihood",
    ),
    Row(
        name="rationale-orpo",
        title="ORPO beside a rationale of the choice",
        formula="orpo - log sigma(gamma log pi(rationale)/size),  a mean over its tokens",
        paper="arXiv:2407.14477, released code (reds-lab)",
        options={
            "odds_weight": Option("lambda, weight of the odds-ratio loss", "0.1", 0.1),
            "gamma": GAMMA_R,
            "label_smoothing": NO_SMOOTHING,
            "anchor_weight": ANCHOR_WEIGHT,
        },
        build=_rationale_orpo,
        needs=frozenset({"size", "extra:rationale", "extra:rationale_size"}),
        refuses=NO_ZERO | NO_SCALE | OWN_NLL | {"beta": "the log-odds are compared as they are"},
        unverified="the paper's own form",
    ),
)  # fmt: skip

FRESH = (
    Row(
        name="xpo",
        title="Exploratory preference optimisation, on recorded samples",
        formula="dpo + weight (o_w policy_w + o_l policy_l),  o = 1 where the reference sampled it",
        paper="arXiv:2405.21046; as in TRL's XPO trainer by our notes",
        options={**LOGISTIC, "weight": Option("alpha, weight of the optimism", "1e-5", 1e-5)},
        build=_with(Optimism),
        needs=_needs("from_reference"),
    ),
    Row(
        name="dpo-online-kl",
        title="HyPO: offline DPO beside the divergence on fresh samples",
        formula="dpo + weight sg[log pi/ref(y)] log pi(y),  y a fresh sample of the policy",
        paper="arXiv:2406.01462",
        options={**LOGISTIC, "weight": Option("lambda, weight of the divergence", "about 1e-4 (from recollection)", 1e-4)},
        build=_with(lambda weight: AddedOfPair("online_kl", weight)),
        needs=_needs("online_kl"),
        unverified="lambda and whether a baseline is taken off; the gradient is that of KL(pi || ref), the value is not",
    ),
)  # fmt: skip

ROWS = (*TOKENS, *CONDITIONS, *FRESH)
