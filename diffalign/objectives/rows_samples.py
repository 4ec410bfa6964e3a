r"""Rows of single samples: liked or not, or with a number of their own."""

from diffalign.objectives.baselines import MismatchedMean, RunningMean, Zero
from diffalign.objectives.links import Logistic, Sigmoid
from diffalign.objectives.objective import alone
from diffalign.objectives.options import BETA, SINGLE
from diffalign.objectives.pointwise import SampleObjective
from diffalign.objectives.rewards import LogRatio
from diffalign.objectives.row import Option, Row
from diffalign.objectives.scored import NashGradient, Regress, ScoreObjective

WEIGHTS = {
    "desirable_weight": Option("lambda+, of the samples that are liked", "1; n+ lambda+ / (n- lambda-) within 1 to 4/3 (KTO)", 1.0),
    "undesirable_weight": Option("lambda-, of those that are not", "1", 1.0),
}


def _judged(link, baseline):
    """`baseline`: a class, as one that keeps a running mean is an objective's own."""

    def build(beta, desirable_weight, undesirable_weight, all_reduce=alone):
        return SampleObjective(LogRatio(), link, beta, desirable_weight, undesirable_weight, all_reduce, baseline())

    return build


ROWS = (
    Row(
        name="kto-mismatched",
        title="Kahneman-Tversky optimisation with its divergence from mismatched responses, as for language models",
        formula="lambda (1 - sigma(+-beta (r - q0))),  q0 = sg[max(0, mean of r of other records' responses after this prompt)]",
        paper="arXiv:2402.01306, eq. 7; as in TRL's kto",
        options={"beta": Option(BETA.unit, "0.1"), **WEIGHTS},
        build=_judged(Sigmoid(), MismatchedMean),
        takes="labels",
        needs=frozenset({"reference", "extra:mismatched"}),
        refuses=SINGLE,
        couples="ranks",
    ),
    Row(
        name="apo-zero-unpaired",
        title="APO-zero of single samples; KTO without its divergence",
        formula="1 - sigma(beta r) of the liked, sigma(beta r) of the others",
        paper="arXiv:2408.06266, eq. 7; as in TRL's KTO trainer, loss_type apo_zero_unpaired",
        options={"beta": Option(BETA.unit, "0.1"), **WEIGHTS},
        build=_judged(Sigmoid(), Zero),
        takes="labels",
        refuses=SINGLE,
    ),
    Row(
        name="bco",
        title="Binary classifier optimisation: a running shift, the mean of both classes' means",
        formula="-log sigma(+-(beta r - delta)),  delta = (E+[beta r] + E-[beta r])/2 over all calls so far",
        paper="arXiv:2404.04656; a density ratio of prompts (UDM) goes into the labels' weight",
        options={"beta": Option(BETA.unit, "0.01"), **WEIGHTS},
        build=_judged(Logistic(), RunningMean),
        takes="labels",
        refuses=SINGLE,
        unverified="how the paper averages delta over steps",
        couples="ranks",
    ),
    Row(
        name="bco-trl",
        title="Binary classifier optimisation as in TRL: a running shift, the mean over all samples",
        formula="-log sigma(+-(beta r - delta)),  delta = mean of beta r over all samples of all calls so far, this one included",
        paper="TRL's BCO trainer (experimental, gone in 1.16); UDM's ratio goes into the labels' weight",
        options={"beta": Option(BETA.unit, "0.01"), **WEIGHTS},
        build=_judged(Logistic(), lambda: RunningMean(by_class=False)),
        takes="labels",
        refuses=SINGLE,
        couples="ranks",
    ),
    Row(
        name="a2po",
        title="A*-PO: regression on the optimal advantage",
        formula="(beta r - A)^2,  A = R - V*,  V* = beta1 log mean exp(R/beta1) over samples of the reference (recipes.soft_value)",
        paper="arXiv:2505.20686; as in TRL (beta is its beta2, beta1 0.5)",
        options={"beta": Option(BETA.unit, "1e-3")},
        build=lambda beta, all_reduce=alone: ScoreObjective(LogRatio(), Regress(), beta),
        takes="scores",
        refuses=SINGLE,
    ),
    Row(
        name="direct-advantage",
        title="Direct advantage policy optimisation: every reasoning step regressed on its advantage",
        formula="(r - A/beta)^2,  r and A of a step;  a2po over beta^2",
        paper="arXiv:2412.18279, from summaries",
        options={"beta": Option("strength: the advantage is divided by it", "unknown: the paper was not read")},
        build=lambda beta, all_reduce=alone: ScoreObjective(LogRatio(), Regress(beta), beta),
        takes="scores",
        refuses=SINGLE,
        unverified="the equation. A centred advantage is not the optimum of the regularised problem: A - beta log E exp(A/beta) is",
    ),
    Row(
        name="nash-md",
        title="Nash mirror descent, on recorded samples of the policy",
        formula="beta sum_t sg[lr_t] log pi(y_t) - (P - 1/2) policy,  P the probability to beat one of policy and reference mixed",
        paper="arXiv:2312.00886; as in TRL's trainer by our notes",
        options={"beta": Option("strength of the divergence, per nat", "0.1 (TRL)")},
        build=lambda beta, all_reduce=alone: ScoreObjective(LogRatio(), NashGradient(beta), beta),
        takes="scores",
        needs=frozenset({"reference", "extra:token_kl"}),
        refuses=SINGLE,
        unverified="the paper; the value means nothing, the gradient is right for samples of the present policy only",
    ),
)  # fmt: skip
