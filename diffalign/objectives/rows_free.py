r"""Rows of pairs without a reference: they compare log-probabilities, their means or their odds, most beside a likelihood of the winner."""

from diffalign.objectives.links import Hinge, Logistic, Squared
from diffalign.objectives.objective import alone
from diffalign.objectives.options import (
    ANCHOR_WEIGHT,
    BETA,
    FREE,
    NLL_WEIGHT,
    NO_MARGIN,
    NO_SCALE,
    NO_SMOOTH,
    NO_SMOOTHING,
    NO_ZERO,
    NOT_LOGISTIC,
    OWN_NLL,
    inverse,
    pair,
)
from diffalign.objectives.pairterms import Likelihood, Points
from diffalign.objectives.rewards import LengthMean, PolicyEvidence
from diffalign.objectives.row import Option, Row
from diffalign.objectives.scores import Odds, Power
from diffalign.objectives.wrapped import Shifted, Weighted

SUM = PolicyEvidence()
MEAN = LengthMean(SUM)
SIZE, NOTHING = frozenset({"size"}), frozenset()
JOINT = frozenset({"size", "extra:joint", "extra:joint_size"})
MEAN_BETA = Option("strength; multiplies the mean log-probability of a token once, per nat", "2 to 2.5; 10 in its version 0.2")
GAMMA = Option("margin that the rejected side has to be beaten by, in the units of z (after beta)", "1 to 1.6, gamma/beta 0.3 to 0.5", 1.0)
ALPHA = Option("power of the probability: r = (1 - P^-alpha)/alpha of the mean log-probability; 0 is simpo", "0.25", 0.25)
BATCH_NLL = "times the mean over all tokens of the winners of a call, as in TRL"
FREE_REFUSES = NO_ZERO | NO_SCALE
ODDS_WEIGHT = Option("lambda, weight of the odds-ratio loss (TRL's beta)", "0.1 to 0.25", 0.1)
ODDS_REFUSES = FREE_REFUSES | OWN_NLL | {"beta": "the log-odds are compared as they are; odds_weight is what TRL calls beta"}


def _nll(weight, per, all_reduce=alone, joint=False):
    return Likelihood(weight, per=per, joint=joint, all_reduce=all_reduce) if weight else None


def _cpo(link, per="batch", reward=SUM):
    def build(beta, nll_weight, label_smoothing=0.0, all_reduce=alone, **knobs):
        terms = (_nll(nll_weight, per, all_reduce),)
        return pair(reward, link(beta, label_smoothing), beta, terms=terms, all_reduce=all_reduce, **knobs)

    return build


def _logistic(beta, label_smoothing):
    return Logistic(label_smoothing)


def _simpo(beta, gamma, label_smoothing, alpha=0.0, nll_weight=0.0, all_reduce=alone, **knobs):
    terms, link = (_nll(nll_weight, "batch", all_reduce),), Shifted(Logistic(label_smoothing), gamma)
    return pair(Power(MEAN, -alpha), link, beta, terms=terms, all_reduce=all_reduce, **knobs)


def _orpo(odds_weight, label_smoothing, per="token", joint=False, all_reduce=alone, **knobs):
    link, terms = Weighted(Logistic(label_smoothing), odds_weight), (_nll(1.0, per, all_reduce, joint),)
    return pair(Odds(), link, 1.0, terms=terms, all_reduce=all_reduce, **knobs)


def _slic(delta, nll_weight, **knobs):
    beta = inverse("delta", delta)
    return pair(SUM, Weighted(Hinge(), delta), beta, terms=(_nll(nll_weight, "sequence"),), **knobs)


def _nll_option(published="1", default=1.0, unit=NLL_WEIGHT):
    return Option(unit, published, default)


ANCHORED = {"anchor_weight": ANCHOR_WEIGHT}
CPO_KNOBS = {"label_smoothing": NO_SMOOTHING, **ANCHORED}

ROWS = (
    Row(
        name="cpo",
        title="Contrastive preference optimisation",
        formula="-log sigma(beta (lp_w - lp_l)) - nll_weight lp_w,  sums of log-probabilities",
        paper="arXiv:2401.08417",
        options={"beta": BETA, "nll_weight": _nll_option("1 (the paper; alpha in TRL)"), **CPO_KNOBS},
        build=_cpo(_logistic, "sequence"),
        needs=NOTHING,
        refuses=FREE_REFUSES | OWN_NLL,
    ),
    Row(
        name="cpo-trl",
        title="Contrastive preference optimisation as released and in TRL: a mean likelihood",
        formula="-log sigma(beta (lp_w - lp_l)) + nll_weight NLL_w,  the NLL a mean over all tokens of the call's winners",
        paper="TRL's CPO trainer, loss_type sigmoid",
        options={"beta": BETA, "nll_weight": _nll_option("1 (cpo_alpha)", unit=f"adds this {BATCH_NLL}"), **CPO_KNOBS},
        build=_cpo(_logistic),
        needs=SIZE,
        refuses=FREE_REFUSES | OWN_NLL,
        couples="ranks",
    ),
    Row(
        name="cpo-trl-hinge",
        title="CPO with a hinge, as in TRL",
        formula="max(0, 1 - beta (lp_w - lp_l)) + nll_weight NLL_w,  the NLL as in cpo-trl",
        paper="TRL's CPO trainer, loss_type hinge",
        options={"beta": BETA, "nll_weight": _nll_option("1 (cpo_alpha)", unit=f"adds this {BATCH_NLL}"), **ANCHORED},
        build=_cpo(lambda beta, _: Hinge()),
        needs=SIZE,
        refuses=FREE_REFUSES | OWN_NLL | NO_SMOOTH,
        couples="ranks",
    ),
    Row(
        name="cpo-trl-ipo",
        title="CPO with a squared loss on means over tokens, as in TRL",
        formula="(m_w - m_l - 1/(2 beta))^2 + nll_weight NLL_w,  m = policy/size, the NLL as in cpo-trl",
        paper="TRL's CPO trainer, loss_type ipo",
        options={"beta": BETA, "nll_weight": _nll_option("1 (cpo_alpha)", unit=f"adds this {BATCH_NLL}"), **ANCHORED},
        build=_cpo(Squared, reward=MEAN),
        needs=SIZE,
        refuses=FREE_REFUSES | OWN_NLL | NO_SMOOTH,
        couples="ranks",
    ),
    Row(
        name="simpo",
        title="Simple preference optimisation",
        formula="-log sigma(beta (m_w - m_l) - gamma),  m = policy/size",
        paper="arXiv:2405.14734",
        options={"beta": MEAN_BETA, "gamma": GAMMA, **FREE},
        build=_simpo,
        needs=SIZE,
        refuses=FREE_REFUSES,
    ),
    Row(
        name="cpo-simpo",
        title="CPO-SimPO, what TRL's CPO trainer does with loss_type simpo",
        formula="-log sigma(beta (m_w - m_l) - gamma) + nll_weight NLL_w,  the NLL as in cpo-trl",
        paper="TRL's CPO trainer, loss_type simpo: cpo_alpha 1 unless set to 0",
        options={
            "beta": MEAN_BETA,
            "gamma": Option(GAMMA.unit, "0.5 (simpo_gamma)", 0.5),
            "nll_weight": _nll_option("1 (cpo_alpha)", unit=f"adds this {BATCH_NLL}"),
            **CPO_KNOBS,
        },
        build=_simpo,
        needs=SIZE,
        refuses=FREE_REFUSES | OWN_NLL,
        couples="ranks",
    ),
    Row(
        name="alphapo",
        title="AlphaPO: SimPO with a bent reward",
        formula="-log sigma(beta (r_w - r_l) - gamma),  r = (1 - exp(-alpha m))/alpha,  m = policy/size",
        paper="arXiv:2501.03884; as in TRL's CPO trainer",
        options={"beta": Option(MEAN_BETA.unit, "2.5"), "gamma": Option(GAMMA.unit, "0.1", 0.1), "alpha": ALPHA, **FREE},
        build=_simpo,
        needs=SIZE,
        refuses=FREE_REFUSES,
    ),
    Row(
        name="orpo",
        title="Odds ratio preference optimisation",
        formula="-m_w - odds_weight log sigma(logit P_w - logit P_l),  m = policy/size,  P = exp(m)",
        paper="arXiv:2403.07691, eqs. 6 and 7",
        options={"odds_weight": ODDS_WEIGHT, **CPO_KNOBS},
        build=_orpo,
        needs=SIZE,
        refuses=ODDS_REFUSES,
    ),
    Row(
        name="orpo-trl",
        title="Odds ratio preference optimisation as in TRL: the likelihood of prompt and response",
        formula="NLL_w - odds_weight log sigma(logit P_w - logit P_l),  the NLL a mean over all tokens of prompts and chosen responses",
        paper="TRL's ORPO trainer",
        options={"odds_weight": ODDS_WEIGHT, **CPO_KNOBS},
        build=lambda **options: _orpo(per="batch", joint=True, **options),
        needs=JOINT,
        refuses=ODDS_REFUSES,
        couples="ranks",
    ),
    Row(
        name="asft",
        title="Aligned supervised fine-tuning: absolute likelihoods",
        formula="-m_w - odds_weight (log sigma(logit P_w) + log sigma(-logit P_l)) = -(1 + w) m_w - w log(1 - P_l)",
        paper="arXiv:2409.10571",
        options={"odds_weight": Option("lambda, weight of the two alignment terms", "unknown: the paper was not read", 0.1), **ANCHORED},
        build=lambda odds_weight, **knobs: pair(
            Odds(), None, 1.0, terms=(_nll(1.0, "token"), Points(Logistic(), weight=odds_weight)), **knobs
        ),
        needs=SIZE,
        refuses=ODDS_REFUSES | NO_MARGIN | NO_SMOOTH | NOT_LOGISTIC,
        unverified="the form, and lambda",
    ),
    Row(
        name="slic",
        title="SLiC-HF: hinge on log-probabilities beside a likelihood",
        formula="max(0, delta - (lp_w - lp_l)) - nll_weight lp_w",
        paper="arXiv:2305.10425",
        options={
            "delta": Option("log-probability by which the rejected response has to be beaten, in nats", "1 (HALOs)", 1.0),
            "nll_weight": _nll_option("0.1; the paper's likelihood is that of a target, which may be another response", 0.1),
            **ANCHORED,
        },
        build=_slic,
        needs=NOTHING,
        refuses=FREE_REFUSES | OWN_NLL | NO_SMOOTH | {"beta": "slic compares log-probabilities as they are: 1/delta is its beta"},
    ),
    Row(
        name="redi",
        title="REDI: asymmetric likelihoods of right and wrong solutions",
        formula="-m_w + alpha m_l,  m = policy/size;  unbounded below",
        paper="arXiv:2505.24850, released code (Tim-Siu/reinforcement-distillation)",
        options={"alpha": Option("weight of the rejected side's likelihood; keep it below 1", "0.8 (learning rate 1e-6)", 0.8), **ANCHORED},
        build=lambda alpha, **knobs: pair(MEAN, None, 1.0, terms=(Likelihood(rejected=alpha),), **knobs),
        needs=SIZE,
        refuses=NO_MARGIN | NO_SMOOTH | NO_SCALE | {"beta": "redi compares nothing", "sft_weight": "redi has the winner's likelihood"},
    ),
    Row(
        name="sft-trl",
        title="Supervised fine-tuning on the winners, a mean over all tokens of a call (TRL's loss_type sft)",
        formula="NLL_w,  a mean over all tokens of the call's winners",
        paper="TRL's DPO trainer, loss_type sft",
        options=ANCHORED,
        build=lambda all_reduce=alone, **knobs: pair(SUM, None, 1.0, terms=(_nll(1.0, "batch", all_reduce),), **knobs),
        needs=SIZE,
        refuses=NO_MARGIN | NO_SMOOTH | NO_SCALE | {"beta": "sft compares nothing", "sft_weight": "sft is the winner's likelihood already"},
        couples="ranks",
    ),
)  # fmt: skip
