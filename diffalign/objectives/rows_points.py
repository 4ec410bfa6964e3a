r"""Rows of pairs whose sides are judged one by one, and rows that add a likelihood to a comparison."""

from diffalign.objectives.links import Logistic, Sigmoid, Squared
from diffalign.objectives.objective import alone
from diffalign.objectives.options import (
    BETA,
    KNOBS,
    LOGISTIC,
    NLL_WEIGHT,
    NO_MARGIN,
    NO_SMOOTH,
    NOT_LOGISTIC,
    OWN_NLL,
    POINTS,
    pair,
)
from diffalign.objectives.pairterms import Likelihood, Points
from diffalign.objectives.rewards import LogRatio
from diffalign.objectives.row import Option, Row
from diffalign.objectives.wrapped import Weighted

ONE_BY_ONE = NO_MARGIN | NO_SMOOTH | NOT_LOGISTIC
WITH_SIZE = frozenset({"reference", "size"})
NO_SFT = {name: option for name, option in LOGISTIC.items() if name != "sft_weight"}


def _points(link, **shares):
    return lambda beta, **knobs: pair(LogRatio(), None, beta, terms=(Points(link, **shares),), **knobs)


def _with_nll(per):
    def build(beta, label_smoothing, nll_weight, all_reduce=alone, **knobs):
        terms = (Likelihood(nll_weight, per=per, all_reduce=all_reduce),) if nll_weight else ()
        return pair(LogRatio(), Logistic(label_smoothing), beta, terms=terms, all_reduce=all_reduce, **knobs)

    return build


def _internvl(beta, dpo_weight, bco_weight, nll_weight, all_reduce=alone, **knobs):
    terms = (Points(Logistic(), weight=bco_weight), Likelihood(nll_weight, per="batch", all_reduce=all_reduce) if nll_weight else None)
    return pair(LogRatio(), Weighted(Logistic(), dpo_weight), beta, terms=terms, all_reduce=all_reduce, **knobs)


ROWS = (
    Row(
        name="nca",
        title="Noise contrastive alignment, of a pair",
        formula="-log sigma(x_w) - 1/2 log sigma(-x_w) - 1/2 log sigma(-x_l),  x = beta r;  the chosen's optimum is x = ln 2",
        paper="arXiv:2402.05369; as in TRL's nca_pair",
        options={**POINTS, "beta": Option(BETA.unit, "0.01")},
        build=_points(Logistic(), unlike=0.5, dislike=0.5),
        refuses=ONE_BY_ONE,
    ),
    Row(
        name="bco-pair",
        title="Binary classifier optimisation, of a pair, without a shift",
        formula="-log sigma(x_w) - log sigma(-x_l),  x = beta r",
        paper="arXiv:2404.04656 with delta 0; as in TRL's bco_pair (LLaMA-Factory's shifts it by a batch mean: bco on labels does)",
        options={**POINTS, "beta": Option(BETA.unit, "0.01")},
        build=_points(Logistic()),
        refuses=ONE_BY_ONE,
    ),
    Row(
        name="apo-zero",
        title="Anchored preference optimisation: chosen better than the model's own",
        formula="1 - sigma(x_w) + sigma(x_l),  x = beta r",
        paper="arXiv:2408.06266, eq. 7; as in TRL",
        options=POINTS,
        build=_points(Sigmoid()),
        refuses=ONE_BY_ONE,
    ),
    Row(
        name="apo-down",
        title="Anchored preference optimisation: chosen worse than the model's own; lowers both",
        formula="sigma(x_w) + 1 - sigma(z),  x = beta r",
        paper="arXiv:2408.06266, eq. 8; as in TRL",
        options={"beta": BETA, **KNOBS},
        build=lambda beta, **knobs: pair(
            LogRatio(), Sigmoid(), beta, terms=(Points(Sigmoid(), like=0.0, unlike=1.0, dislike=0.0),), **knobs
        ),
        refuses=NO_SMOOTH | NOT_LOGISTIC,
    ),
    Row(
        name="sppo-hard",
        title="Self-play preference optimisation with certain labels, as in TRL",
        formula="(r_w - 1/(2 beta))^2 + (r_l + 1/(2 beta))^2;  reference = the previous policy",
        paper="arXiv:2405.00675, eq. 4.7 as in TRL: twice sppo's loss of a certain pair",
        options={**POINTS, "beta": Option("inverse: the rewards are regressed on +-1/(2 beta), 500 nats at 1e-3", "1e-3")},
        build=lambda beta, **knobs: pair(LogRatio(), None, beta, terms=(Points(Squared(beta)),), **knobs),
        refuses=ONE_BY_ONE,
    ),
    Row(
        name="dpo-sft",
        title="Regularised preference optimisation: DPO beside a likelihood (RPO, IRPO)",
        formula="dpo - nll_weight policy_w/size_w",
        paper="arXiv:2405.16436, its fork of OpenRLHF (a mean over sequences of means over tokens)",
        options={**NO_SFT, "nll_weight": Option(NLL_WEIGHT + ", a mean over its tokens", "0.005, beta 0.01; IRPO 1; Llama 3.1 0.2", 0.005)},
        build=_with_nll("token"),
        needs=WITH_SIZE,
        refuses=OWN_NLL,
    ),
    Row(
        name="dpo-sft-trl",
        title="DPO beside a likelihood as in TRL: a mean over all tokens of a call",
        formula="dpo + nll_weight NLL_w,  the NLL a mean over all tokens of the call's winners",
        paper='TRL\'s loss_type ["sigmoid", "sft"], weights [1, 0.005] in its paper index',
        options={**NO_SFT, "nll_weight": Option(NLL_WEIGHT + ", the mean over all winners' tokens", "0.005 (loss_weights)", 0.005)},
        build=_with_nll("batch"),
        needs=WITH_SIZE,
        refuses=OWN_NLL,
        couples="ranks",
    ),
    Row(
        name="internvl-mpo",
        title="Mixed preference optimisation of InternVL: DPO, BCO and a likelihood",
        formula="dpo_weight dpo + bco_weight bco-pair + nll_weight NLL_w,  the NLL as in dpo-sft-trl",
        paper="TRL's paper index, as our notes have it: sigmoid 0.8, bco_pair 0.2, sft 1",
        options={
            "beta": BETA,
            "dpo_weight": Option("weight of dpo", "0.8", 0.8),
            "bco_weight": Option("weight of bco-pair", "0.2", 0.2),
            "nll_weight": Option(NLL_WEIGHT + ", the mean over all winners' tokens", "1", 1.0),
            **{name: option for name, option in KNOBS.items() if name != "sft_weight"},
        },
        build=_internvl,
        needs=WITH_SIZE,
        refuses=OWN_NLL | NO_SMOOTH | NOT_LOGISTIC,
        unverified="the paper, whose BCO may carry a running shift",
        couples="ranks",
    ),
)  # fmt: skip
