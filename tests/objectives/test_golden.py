"""Every value of tests/golden/objectives.json, made from the published formulas on one pair: which row says it."""

import json
import math
from pathlib import Path

import pytest
import torch

from diffalign import objectives
from diffalign.objectives import Comparison, Evidence, Labels, Logistic, Odds, PairObjective, Points, Rankings
from tests.objectives.batches import F64

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/objectives.json").read_text())
PAIR = Comparison.halves(1)


def evidence(**extra) -> Evidence:
    g = GOLDEN["inputs"]
    def pair(chosen, rejected):
        return torch.tensor([g[chosen], g[rejected]], dtype=F64)
    made = {name: torch.tensor(value, dtype=F64) for name, value in extra.items()}
    return Evidence(pair("logp_w", "logp_l"), pair("ref_w", "ref_l"), pair("len_w", "len_l"), made)


def total(objective, labels=PAIR, **extra) -> float:
    """Sum of the units' losses times their weights: of one pair, however it is given."""
    return objectives.reduce(objective(evidence(**extra), labels), 1).item()


def row(name, labels=PAIR, extra=None, **options):
    return lambda: total(objectives.get(name, **options), labels, **(extra or {}))


def diffusion(name: str):
    errors = torch.tensor([[0.1000, 0.2000], [0.1002, 0.1999]], dtype=F64)
    return objectives.get(name, beta=5000.0)(Evidence(-0.5 * errors[0], -0.5 * errors[1]), PAIR)


def gap(value: float) -> Comparison:
    return Comparison.halves(1, margin=torch.tensor(value, dtype=F64))


VALUES = {
    "dpo": row("dpo", beta=0.1),
    "cdpo_eps.1": row("cdpo", beta=0.1, label_smoothing=0.1),
    "robust_eps.1": row("robust-dpo", beta=0.1, label_smoothing=0.1),
    "hinge": row("hinge", beta=0.1),
    "ipo_token_mean": row("ipo-mean", beta=0.1),
    "ipo_sum": row("ipo", beta=0.1),
    "exo_eps1e-3": row("exo", beta=0.1),
    "nca_beta.1": row("nca", beta=0.1),
    "bco_pair_delta0": row("bco-pair", beta=0.1),
    "sppo_hard_trl": row("sppo-hard", beta=0.1),
    "sppo_official_P1": row("sppo", Rankings(torch.tensor([0, 0]), torch.tensor([1.0, 0.0])), beta=0.1),
    "apo_zero": row("apo-zero", beta=0.1),
    "apo_down": row("apo-down", beta=0.1),
    "discopop_tau.05": row("discopop", beta=0.1),
    "sigmoid_norm_beta5": row("sigmoid-norm", beta=5.0),
    "kto_kl.02": row("kto-mismatched", Labels(torch.tensor([True, False])), {"mismatched": [0.3, 0.1]}, beta=0.1),  # beta * mean = 0.02
    "simpo_b2.5_g1.375": row("simpo", beta=2.5, gamma=1.375),
    "cpo_sigmoid": row("cpo", beta=0.1, nll_weight=0.0),
    "orpo_or_term": lambda: total(objectives.get("orpo", odds_weight=1.0)) - 5.2 / 4,  # less its likelihood
    "asft_align_term": lambda: total(PairObjective(Odds(), None, 1.0, terms=(Points(Logistic()),))),
    "slic_hinge_delta1": row("slic", nll_weight=0.0),
    "f_js": row("f-dpo-js", beta=0.1),
    "f_forward_kl": row("f-dpo-forward-kl", beta=0.1),
    "f_alpha.5": row("f-dpo-alpha", beta=0.1),
    "dpop_lambda50": row("dpop", beta=0.1),
    "redi_a1_.8": row("redi"),
    "rebel_eta1_dr2": row("rebel", gap(2.0)),
    "sem_dpo_a1_d.3": row("sem-dpo", extra={"prompt_distance": [0.3]}, beta=0.1),
    "diffusion_dpo_beta5000": lambda: diffusion("dpo").loss.item(),
    "diffusion_inside": lambda: diffusion("dpo").metrics["rewards/margins"][0].item(),
}


def test_every_golden_value_has_its_row():
    assert VALUES.keys() == GOLDEN.keys() - {"inputs"}


@pytest.mark.parametrize("name", VALUES)
def test_golden(name):
    assert VALUES[name]() == pytest.approx(GOLDEN[name], abs=2e-9)


# By hand, on the same pair (a = 0.8, b = -0.3, beta 0.1, sizes 4 and 6), where there is no golden value.


def softplus(x):
    return torch.nn.functional.softplus(torch.tensor(x, dtype=F64)).item()


Z = 0.1 * 1.1
DPO, CPO, BCO = softplus(-Z), softplus(-0.38), softplus(-0.08) + softplus(-0.03)
P_W, P_L = math.exp(-5.2 / 4), math.exp(-9.0 / 6)  # mean probabilities of a token
ODDS = softplus(-(math.log(P_W / (1 - P_W)) - math.log(P_L / (1 - P_L))))
BY_HAND = {
    "reward-aware-sq": (row("reward-aware-sq", gap(0.7), beta=0.1, eta=0.5), (Z - 0.35) ** 2),
    "reward-aware-bwd-kl": (row("reward-aware-bwd-kl", gap(0.7), beta=0.1),
                            (p := 1 / (1 + math.exp(-0.7))) * softplus(-Z) + (1 - p) * softplus(Z)
                            - (p * softplus(-0.7) + (1 - p) * softplus(0.7))),
    "reward-aware-fwd-kl": (row("reward-aware-fwd-kl", gap(0.7), beta=0.1),
                            (s := 1 / (1 + math.exp(-Z))) * (-DPO + softplus(-0.7)) + (1 - s) * (-softplus(Z) + softplus(0.7))),
    "egpo": (row("egpo", gap(0.2), beta=0.5), (1.1 - 0.4) ** 2),
    "dpo-gamma": (row("dpo-gamma", beta=0.1, gamma=0.5), softplus(-0.1 * (3.8 - 0.5 * 2.7))),
    "dpo-conditional-reference": (row("dpo-conditional-reference", beta=0.1), DPO),  # the reference ranks the pair as the label does
    "dpo-sft": (row("dpo-sft", beta=0.1, nll_weight=0.5), DPO + 0.5 * 5.2 / 4),
    "dpo-sft-trl": (row("dpo-sft-trl", beta=0.1, nll_weight=0.5), DPO + 0.5 * 5.2 / 4),
    "internvl-mpo": (row("internvl-mpo", beta=0.1), 0.8 * DPO + 0.2 * BCO + 5.2 / 4),
    "cpo": (row("cpo", beta=0.1), CPO + 5.2),
    "cpo-trl": (row("cpo-trl", beta=0.1), CPO + 5.2 / 4),
    "cpo-trl-hinge": (row("cpo-trl-hinge", beta=0.1), 1 - 0.38 + 5.2 / 4),
    "cpo-trl-ipo": (row("cpo-trl-ipo", beta=0.1), (-1.3 + 1.5 - 5) ** 2 + 5.2 / 4),
    "cpo-simpo": (row("cpo-simpo", beta=2.0), softplus(-(2.0 * 0.2 - 0.5)) + 5.2 / 4),
    "asft": (row("asft", odds_weight=0.5), 5.2 / 4 + 0.5 * (-math.log(P_W) - math.log(1 - P_L))),
    "orpo-trl": (row("orpo-trl", odds_weight=1.0, extra={"joint": [-12.0, -1.0], "joint_size": [10.0, 12.0]}), ODDS + 1.2),
    "slic": (row("slic", delta=5.0), 5 - 3.8 + 0.1 * 5.2),
    "sft-trl": (row("sft-trl"), 5.2 / 4),
    "ld-dpo": (row("ld-dpo", beta=0.1, extra={"tail": [0.0, -0.4]}), softplus(-0.1 * (0.8 - (-0.3 + 0.2)))),
    "tdpo1": (row("tdpo1", beta=0.1, extra={"sequential_kl": [0.5, 0.2]}), softplus(-0.1 * (1.1 - (0.2 - 0.5)))),
    "tdpo2": (row("tdpo2", beta=0.1, extra={"sequential_kl": [0.5, 0.2]}), softplus(-0.1 * (1.1 - 0.5 * (0.2 - 0.5)))),
    "sparse-po": (row("sparse-po", beta=0.1, extra={"masked": [0.4, -0.2], "masked_kl": [0.1, 0.3]}), softplus(-0.1 * (0.5 - 0.1))),
    "tgdpo": (row("tgdpo", beta=0.1, extra={"guided": [2.0, -4.0]}), softplus(-0.1 * ((0.8 + 0.05 * 2) - (-0.3 - 0.05 * -4)))),
    "align-distil": (row("align-distil", extra={"distillation": [0.3, 0.4]}), 0.7),
    "dckd": (row("dckd", extra={"teacher_kl": [0.3, 0.4]}), 5.2 / 4 + 0.7),
    "adpa": (row("adpa", gamma=2.0, extra={"advantage": [0.3]}), 5.2 / 4 - 0.6),
    "re-align": (row("re-align", beta=0.1, extra={"contrast": [0.5, 0.0]}), DPO + softplus(-0.03)),
    "mdpo": (row("mdpo", beta=0.1, extra={"contrast": [0.5, 0.0]}), DPO + softplus(-0.03) + softplus(-0.08)),
    "opa-dpo": (row("opa-dpo", beta=0.1, extra={"contrast": [0.5, 0.0]}), DPO + 0.2 * softplus(-0.03) + BCO),
    "tars": (row("tars", beta=0.1, frequency_weight=2.0, extra={"contrast": [0.5, 0.0], "spectral_gap": [-0.2]}),
             DPO + softplus(-0.03) + 0.6),
    "rationale-dpo": (row("rationale-dpo", beta=0.1, weight=0.5, extra={"rationale": [-6.0]}), DPO + softplus(3.0)),
    "rationale-orpo": (row("rationale-orpo", odds_weight=1.0, gamma=0.5, extra={"rationale": [-6.0], "rationale_size": [3.0]}),
                       ODDS + 1.3 + softplus(1.0)),
    "xpo": (row("xpo", beta=0.1, weight=0.01, extra={"from_reference": [0.0, 1.0]}), DPO - 0.09),
    "dpo-online-kl": (row("dpo-online-kl", beta=0.1, weight=0.01, extra={"online_kl": [-3.0]}), DPO - 0.03),
    "wpo": (row("wpo", beta=0.1, extra={"self_agreement": [-0.5, 0.2]}), math.exp(-0.3) * DPO),
    "wpo-trl": (row("wpo-trl", beta=0.1, extra={"self_agreement": [0.5, 0.2]}), math.exp(0.7) * DPO),
    "aot": (row("aot", beta=0.1), DPO),
    "aot-unpaired": (row("aot-unpaired", beta=0.1), DPO),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    value, expected = BY_HAND[name]
    assert value() == pytest.approx(expected, abs=1e-12)


def test_capped_agreement_is_one():
    assert row("wpo", beta=0.1, extra={"self_agreement": [0.5, 0.2]})() == pytest.approx(DPO, abs=1e-12)


def test_the_rejected_side_of_a_wrong_reference_is_not_held():
    """Conditional reference: the reference prefers the rejected response, so it does not count (cpo without its likelihood)."""
    swapped = Comparison(torch.tensor([[1, 0]]))
    value = total(objectives.get("dpo-conditional-reference", beta=0.1), swapped)
    assert value == pytest.approx(softplus(0.1 * 3.8), abs=1e-12)


def test_dpop_counts_a_falling_chosen_side():
    swapped = Comparison(torch.tensor([[1, 0]]))  # chosen log-ratio -0.3: r_w = -0.3 - 2 * 0.3
    assert total(objectives.get("dpop", beta=0.1, penalty=2.0), swapped) == pytest.approx(softplus(-0.1 * (-0.9 - 0.8)), abs=1e-12)
