"""The identities T1-T38 of the specification of text objectives, section 6, each on our own objects (float64)."""

import math

import pytest
import torch
import torch.nn.functional as F

from diffalign import objectives
from diffalign.denoising import outputs
from diffalign.objectives import (
    Comparison,
    DiscoPOP,
    Evidence,
    GapKL,
    GapReverseKL,
    Hinge,
    JensenShannon,
    Labels,
    LengthMean,
    Logistic,
    LogRatio,
    Odds,
    PairObjective,
    Points,
    Power,
    Rankings,
    ReverseKL,
    Robust,
    Sigmoid,
    Squared,
    SwapGaps,
    recipes,
)
from diffalign.objectives.targets import ReverseCrossEntropy, SoftmaxTarget
from tests.objectives.batches import F64

Z = torch.linspace(-6, 6, 25, dtype=F64)
ONE = torch.ones_like(Z)
DPO = -F.logsigmoid(Z)


def draw(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def slope(function, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64), rtol=tolerance, atol=tolerance)


def of_ratios(a, b, reference=None, size=None, **extra) -> Evidence:
    """Evidence of P pairs whose log-ratios are a (P,) and b (P,)."""
    ratio = torch.cat([torch.atleast_1d(torch.as_tensor(x, dtype=F64)) for x in (a, b)])
    reference = torch.zeros_like(ratio) if reference is None else reference
    return Evidence(ratio + reference, reference, size, {name: torch.as_tensor(value, dtype=F64) for name, value in extra.items()})


def losses(name, evidence, comparison=None, **options) -> torch.Tensor:
    objective = objectives.get(name, **options)
    return objective(evidence, comparison or Comparison.halves(len(evidence.policy) // 2)).loss


A, B = 3 * draw(2, 40)


def test_t1_dpo():
    close(Logistic()(Z, ONE), DPO)
    close(Logistic()(0 * Z, ONE), math.log(2) * ONE)
    close(slope(lambda z: Logistic()(z, ONE), Z), -torch.sigmoid(-Z))
    close(Logistic()(Z, ONE) - Logistic()(-Z, ONE), -Z)


def test_t2_discopop():
    link = DiscoPOP(0.05)
    close(link(torch.zeros(1, dtype=F64), ONE[:1]), [0.5 * (math.log(2) + 1)])
    close(link(torch.tensor([-3.0], dtype=F64), ONE[:1]), -F.logsigmoid(torch.tensor([-3.0], dtype=F64)))
    close(link(torch.tensor([3.0], dtype=F64), ONE[:1]), [math.exp(-3)])
    m = torch.sigmoid(Z / 0.05)
    close(link(Z, ONE), (1 - m) * DPO + m * torch.exp(-Z))


def test_t3_cdpo():
    eps = 0.1
    close(Logistic(eps)(Z, ONE), DPO + eps * Z)
    close(slope(lambda z: Logistic(eps)(z, ONE), Z), torch.sigmoid(Z) - (1 - eps))
    close(Logistic(eps).slope(torch.tensor([math.log((1 - eps) / eps)], dtype=F64), ONE[:1]), [0.0])


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.4])
def test_t4_robust(eps):
    link = Robust(eps)
    close(link(Z, ONE), DPO - eps / (1 - 2 * eps) * Z)
    close(slope(lambda z: link(z, ONE), Z), torch.sigmoid(Z) - (1 - eps) / (1 - 2 * eps))
    close((1 - eps) * link(Z, ONE) + eps * link(-Z, ONE), DPO)


def test_t5_exo():
    link, best = ReverseKL(1e-3, exact=True), math.log(0.999 / 1e-3)
    close(slope(lambda z: link(z, ONE), Z), torch.sigmoid(Z) * torch.sigmoid(-Z) * (Z - best))
    at = torch.tensor([best], dtype=F64)
    assert best == pytest.approx(6.906754778648554)
    close(link(at, ONE[:1]), [0.0])
    close(link.slope(at, ONE[:1]), [0.0])


def test_t6_ipo():
    close(slope(lambda h: Squared(0.1)(0.1 * h, ONE), Z), 2 * (Z - 5))


def test_t7_sppo():
    beta = 0.3
    close(losses("sppo-hard", of_ratios(A, B), beta=beta), 0.5 * (A - B - 1 / beta) ** 2 + 0.5 * (A + B) ** 2)
    ipo = losses("ipo", of_ratios(A, B), beta=beta / 2)
    close(losses("sppo-hard", of_ratios(A, B), beta=beta), 0.5 * ipo + 0.5 * (A + B) ** 2)


def test_t8_soft_ipo():
    p, tau = 0.8, 0.1
    h = torch.tensor([(p - 0.5) / tau], dtype=F64)
    close(slope(lambda x: Squared(tau)(tau * x, torch.tensor([p], dtype=F64)), h), [0.0])
    both = p * (Z - 1 / tau) ** 2 + (1 - p) * Z**2 + (1 - p) * (-Z - 1 / tau) ** 2 + p * Z**2  # the symmetrised regression, twice
    apart = Squared(tau)(tau * Z, torch.full_like(Z, p)) - both / 2
    close(apart, apart[0].expand_as(apart), 1e-9)  # one constant


def test_t9_nca():
    x = torch.tensor([0.0, 0.0], dtype=F64, requires_grad=True)
    objective = objectives.get("nca", beta=1.0)
    loss = objective(Evidence(x, torch.zeros(2, dtype=F64)), Comparison.halves(1)).loss
    close(loss.detach(), [2 * math.log(2)])
    close(torch.autograd.grad(loss.sum(), x)[0], [-0.25, 0.25])
    at = torch.tensor([math.log(2), 0.0], dtype=F64, requires_grad=True)
    gradient, = torch.autograd.grad(objective(Evidence(at, torch.zeros(2, dtype=F64)), Comparison.halves(1)).loss.sum(), at)
    assert gradient[0].abs() < 1e-15


def test_t10_orpo_and_asft():
    P_w, P_l = torch.rand(2, 40, generator=torch.Generator().manual_seed(3), dtype=F64) * 0.96 + 0.02
    evidence = Evidence(torch.cat([P_w, P_l]).log(), size=torch.ones(80, dtype=F64))
    odds = PairObjective(Odds(), Logistic(), 1.0)(evidence, Comparison.halves(40)).loss
    align = PairObjective(Odds(), None, 1.0, terms=(Points(Logistic()),))(evidence, Comparison.halves(40)).loss
    close(odds, align + (P_w * (1 - P_l) + P_l * (1 - P_w)).log(), 1e-10)
    close(align, -P_w.log() - (1 - P_l).log(), 1e-10)  # sigma(logit P) = P
    worked = Evidence(torch.tensor([-0.5, -1.0], dtype=F64), size=torch.ones(2, dtype=F64))
    ratio = Odds()(worked)
    assert (ratio[0] - ratio[1]).item() == pytest.approx(0.97408, abs=5e-6)
    assert PairObjective(Odds(), Logistic(), 1.0)(worked, Comparison.halves(1)).loss.item() == pytest.approx(0.32030, abs=5e-6)


@pytest.mark.parametrize("delta", [-2.0, 0.0, 1.5])
def test_t11_bco_bounds_dpo(delta):
    shifted = -F.logsigmoid(A - delta) - F.logsigmoid(-(B - delta))
    dpo = losses("dpo", of_ratios(A, B), beta=1.0)
    assert (shifted - dpo >= -1e-12).all()
    if delta == 0:
        close(losses("bco-pair", of_ratios(A, B), beta=1.0), shifted)


def test_t11b_kto_without_divergence_is_apo_zero():
    labels = Labels(torch.tensor([True] * 40 + [False] * 40))
    single = objectives.get("apo-zero-unpaired", beta=0.3)(of_ratios(A, B), labels).loss
    apo = losses("apo-zero", of_ratios(A, B), beta=0.3)
    close(single[:40] + single[40:], apo)
    none = of_ratios(A, B, mismatched=torch.zeros(80))
    close(objectives.get("kto-mismatched", beta=0.3)(none, labels).loss, single)
    zero = of_ratios([0.0], [0.0])
    close(torch.cat([losses("apo-zero", zero, beta=1.0), losses("apo-down", zero, beta=1.0)]), [1.0, 1.0])
    policy = torch.zeros(2, dtype=F64, requires_grad=True)
    loss = objectives.get("apo-down", beta=1.0)(Evidence(policy, torch.zeros(2, dtype=F64)), Comparison.halves(1)).loss.sum()
    close(torch.autograd.grad(loss, policy)[0], [0.0, 0.25])


def test_t12_to_t14_reward_aware():
    p = 0.83
    gap = torch.full_like(Z, math.log(p / (1 - p)))
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    close(GapKL()(Z, gap), Logistic()(Z, torch.full_like(Z, p)) - entropy, 1e-11)
    close(GapReverseKL()(Z, gap), ReverseKL(1 - p)(Z, ONE), 1e-10)
    beta, margin = 0.1, torch.linspace(-2, 2, 40, dtype=F64)
    squared = losses("reward-aware-sq", of_ratios(A, B), Comparison.halves(40, margin=margin), beta=beta)
    rebel = losses("rebel", of_ratios(A, B), Comparison.halves(40, margin=margin), eta=1 / beta)
    close(squared, beta**2 * rebel)


def test_t15_f_divergences():
    evidence = Evidence(A, torch.zeros_like(A))
    close(Power(power=1e-8)(evidence), LogRatio()(evidence), 1e-6)
    close(Power(power=-1.0)(evidence), 1 - torch.exp(-A))
    close(JensenShannon()(evidence), (2 * A.exp() / (1 + A.exp())).log())
    same = Evidence(torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64), torch.tensor([1.0, 4.0, 6.0], dtype=F64))
    for score in (Power(power=-1.0), Power(power=-0.5), JensenShannon()):
        close(score(same), torch.zeros(3))
        close(LengthMean(score)(same), torch.zeros(3))  # with f's constant dropped it would be -1/4 and -1/6 apart
    beta = 0.3
    dropped = -F.logsigmoid(beta * (F.logsigmoid(A) - F.logsigmoid(B)))
    close(losses("f-dpo-js", of_ratios(A, B), beta=beta), dropped)  # a difference does not feel the constant


def test_t16_alpha_of_trl_before_and_after():
    def old(x, alpha):
        return (1 - torch.exp(-alpha * x)) / alpha
    evidence = Evidence(A, torch.zeros_like(A))
    close(Power(power=0.7 - 1)(evidence), old(A, 0.3))
    close(Power(power=0.5 - 1)(evidence), old(A, 0.5))
    assert (Power(power=0.3 - 1)(evidence) - old(A, 0.3)).abs().max() > 0.1


def test_t17_alphapo_and_simpo():
    evidence = Evidence(-3 * torch.rand(80, dtype=F64), size=torch.full((80,), 4.0))
    simpo = losses("simpo", evidence, beta=2.5, gamma=0.7)
    close(losses("alphapo", evidence, beta=2.5, gamma=0.7, alpha=1e-8), simpo, 1e-6)
    close(losses("alphapo", evidence, beta=2.5, gamma=0.7, alpha=0.0), simpo)
    mean = evidence.policy / 4
    close(losses("simpo", evidence, beta=2.5, gamma=0.0), -F.logsigmoid(2.5 * (mean[:40] - mean[40:])))


def test_t18_aot():
    for name in ("aot", "aot-unpaired"):
        one = of_ratios(A[:1], B[:1], reference=draw(2))
        close(losses(name, one, beta=0.1), losses("dpo", one, beta=0.1))
        many, swap = of_ratios(A, B, reference=draw(80)), torch.randperm(40, generator=torch.Generator().manual_seed(1))
        rows = torch.cat([swap, swap + 40])
        again = Evidence(many.policy[rows], many.reference[rows])
        close(losses(name, again, beta=0.1), losses(name, many, beta=0.1))
    policy, reference = draw(8, seed=5), draw(8, seed=6)
    margins = (policy[:4] - policy[4:]).sort().values - (reference[:4] - reference[4:]).sort().values
    close(losses("aot", Evidence(policy, reference), beta=0.1), -F.logsigmoid(0.1 * margins))


def test_t19_dpo_gamma_and_conditional_reference():
    evidence = of_ratios(A, B, reference=3 * draw(80, seed=2))
    dpo, cpo = losses("dpo", evidence, beta=0.1), losses("cpo", evidence, beta=0.1, nll_weight=0.0)
    close(losses("dpo-gamma", evidence, beta=0.1, gamma=1.0), dpo)
    close(losses("dpo-gamma", evidence, beta=0.1, gamma=0.0), cpo)
    right = evidence.reference[:40] >= evidence.reference[40:]
    assert 5 < right.sum() < 35
    close(losses("dpo-conditional-reference", evidence, beta=0.1), torch.where(right, dpo, cpo))


def test_t20_ld_dpo():
    tokens, m = [draw(7, seed=1), draw(5, seed=2)], 5  # log-ratios of the tokens of chosen and rejected
    whole = of_ratios(tokens[0].sum(), tokens[1].sum(), tail=[tokens[0][m:].sum().item(), 0.0])
    close(losses("ld-dpo", whole, beta=0.1, alpha=1.0), losses("dpo", whole, beta=0.1))
    cut = of_ratios(tokens[0][:m].sum(), tokens[1].sum())
    close(losses("ld-dpo", whole, beta=0.1, alpha=0.0), losses("dpo", cut, beta=0.1))


def test_t21_token_masks_and_guides():
    a, b, k = draw(7, seed=1), draw(5, seed=2), draw(2, seed=3).abs()
    def sparse(reward_mask, divergence_mask):
        extra = {"masked": [reward_mask * a.sum().item(), reward_mask * b.sum().item()], "masked_kl": (divergence_mask * k).tolist()}
        return losses("sparse-po", of_ratios(a.sum(), b.sum(), **extra), beta=0.1)
    plain = losses("dpo", of_ratios(a.sum(), b.sum()), beta=0.1)
    close(sparse(1, 0), plain)
    close(sparse(1, 1), losses("tdpo1", of_ratios(a.sum(), b.sum(), sequential_kl=k.tolist()), beta=0.1))
    guide = [draw(7, seed=4), draw(5, seed=5)]
    guided = of_ratios(a.sum(), b.sum(), guided=[(guide[0] * a).sum().item(), (guide[1] * b).sum().item()])
    close(losses("tgdpo", guided, beta=0.1, alpha=0.0), plain)
    by_token = ((0.1 * (1 + 0.05 * guide[0])) * a).sum() - ((0.1 * (1 - 0.05 * guide[1])) * b).sum()
    close(losses("tgdpo", guided, beta=0.1, alpha=0.5), [-F.logsigmoid(by_token).item()])


def ordered(rewards: torch.Tensor, relevance=None) -> torch.Tensor:
    rankings = Rankings(torch.zeros(len(rewards)).long(), -torch.arange(float(len(rewards))) if relevance is None else relevance)
    return objectives.get("plackett-luce", beta=1.0)(Evidence(rewards, torch.zeros_like(rewards)), rankings).loss


def test_t22_plackett_luce():
    from itertools import permutations

    r = draw(4)
    close(sum(torch.exp(-ordered(r[list(order)])) for order in permutations(range(4))), [1.0])
    close(ordered(r + 7), ordered(r))
    close(ordered(torch.tensor([1.2, 0.3], dtype=F64)), -F.logsigmoid(torch.tensor([0.9], dtype=F64)))


def listed(name, rewards, relevance, **options) -> torch.Tensor:
    rankings = Rankings(torch.zeros(len(rewards)).long(), relevance)
    return objectives.get(name, **options)(Evidence(rewards, torch.zeros_like(rewards)), rankings).loss.sum()


def test_t23_listwise_cross_entropy():
    r, score = draw(6), draw(6, seed=1)
    gradient = slope(lambda x: listed("infonca", x, score, beta=1.0), r)
    close(gradient, r.softmax(0) - score.softmax(0))
    assert gradient.sum().abs() < 1e-14
    two = torch.tensor([1.2, 0.3], dtype=F64)
    hard, soft = torch.tensor([1e4, 0.0], dtype=F64), torch.tensor([math.log(0.8 / 0.2), 0.0], dtype=F64)
    close(listed("infonca", two, hard, beta=1.0), -F.logsigmoid(torch.tensor(0.9, dtype=F64)))
    close(listed("infonca", two, soft, beta=1.0), Logistic(0.2)(torch.tensor([0.9], dtype=F64), ONE[:1]).sum())
    ratios = torch.tensor([0.8, -0.3], dtype=F64)  # ADPO, tau = 1/beta, a certain q: dpo
    close(listed("adpo-anchored", ratios, hard, tau=10.0, temperature=1e-3), losses("dpo", of_ratios([0.8], [-0.3]), beta=0.1).sum())


def test_t24_nca_of_two():
    two = torch.tensor([0.4, -0.2], dtype=F64)
    close(listed("nca-list", two, torch.tensor([1e4, 0.0], dtype=F64), beta=1.0), losses("nca", of_ratios([0.4], [-0.2]), beta=1.0).sum())


def test_t25_reverse_divergence():
    r, score = draw(6), draw(6, seed=1)
    log_q = score.log_softmax(0)
    close(listed("exo-list", log_q + 3, score, beta=1.0), 0.0)
    advantage, pi = r.log_softmax(0) - log_q, r.softmax(0)
    close(slope(lambda x: listed("exo-list", x, score, beta=1.0), r), pi * (advantage - (pi * advantage).sum()))
    assert objectives.get("exo-list", beta=1.0).shape == ReverseCrossEntropy(SoftmaxTarget(1.0))


def test_t26_pro_of_two():
    s = torch.tensor([-1.1, -1.4], dtype=F64)
    pro = objectives.get("pro", nll_weight=0.0)
    loss = pro(Evidence(s, size=torch.ones(2, dtype=F64)), Rankings(torch.zeros(2).long(), torch.tensor([3.0, 1.0], dtype=F64))).loss
    close(loss, [-F.logsigmoid(torch.tensor(2.0 * 0.3, dtype=F64)).item()])


def test_t27_lambda_of_two():
    relevance = torch.tensor([1.0, 0.0], dtype=F64)
    rank = listed("rankdpo", torch.tensor([0.8, -0.3], dtype=F64), relevance, beta=0.1)
    close(rank / losses("dpo", of_ratios([0.8], [-0.3]), beta=0.1).sum(), 1 / math.log(2) - 1 / math.log(3))
    assert objectives.get("rankdpo", beta=0.1).shape == SwapGaps()


def test_t28_general_preference_model():
    s = recipes.skew_scores(draw(4, 6))
    close(s, -s.T)
    close(torch.sigmoid(s / 0.1) + torch.sigmoid(s.T / 0.1), torch.ones(4, 4))
    block = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64)
    v = draw(4, 6)
    close(s, v @ torch.block_diag(block, block, block) @ v.T)


def test_t29_transformed_rewards():
    close(slope(lambda r: recipes.transformed(r, 0.4), Z), torch.sigmoid(0.4 - Z))
    assert (recipes.transformed(Z, 0.4) < 0).all()


def test_t30_online_ipo_stands_still_at_the_regularised_nash_equilibrium():
    """log pi/ref = P(y beats pi)/tau + c: there the gradient of ipo over all pairs of samples of pi vanishes."""
    K, tau = 5, 0.7
    table = torch.rand(K, K, generator=torch.Generator().manual_seed(0), dtype=F64)
    wins, ref = (table + 1 - table.T) / 2, draw(K).softmax(0)
    pi = ref.clone()
    for _ in range(4000):
        target = ref * torch.exp(wins @ pi / tau)
        pi = pi**0.9 * (target / target.sum()) ** 0.1
        pi = pi / pi.sum()
    pairs = torch.tensor([(i, j) for i in range(K) for j in range(K) if i != j])
    labels = Comparison(pairs, probability=wins[pairs[:, 0], pairs[:, 1]], weight=pi[pairs].prod(1))
    objective = objectives.get("ipo", beta=tau)
    gradient = slope(lambda x: objectives.reduce(objective(Evidence(x, ref.log()), labels), 1), pi.log())
    assert gradient.abs().max() < 1e-9
    assert slope(lambda x: objectives.reduce(objective(Evidence(x, ref.log()), labels), 1), ref.log()).abs().max() > 1e-2


def test_t31_rebel_is_ipo():
    tau = 0.1
    constant = Comparison.halves(40, margin=1 / (2 * tau))
    close(losses("rebel", of_ratios(A, B), constant), losses("ipo", of_ratios(A, B), beta=tau))


def test_t32_extrapolated_parameters_are_extrapolated_evidence():
    """In the log-linear class theta_1 + alpha (theta_1 - theta_0) has the log-ratio to theta_1 of alpha times theta_1's to theta_0."""
    old, new = draw(2, 5)
    further = new + 0.3 * (new - old)
    step = Evidence(further.log_softmax(0), new.log_softmax(0)).log_ratio - 0.3 * Evidence(new.log_softmax(0), old.log_softmax(0)).log_ratio
    close(step, step[0].expand_as(step))  # one constant, the normaliser


def test_t33_a_pair_is_ranked_right_iff_its_loss_is_below_that_of_the_reference_margin():
    policy, reference = 4 * draw(2, 400)
    loss = losses("dpo", Evidence(policy, reference), beta=0.1)
    threshold = -F.logsigmoid(-0.1 * (reference[:200] - reference[200:]))
    assert torch.equal(loss < threshold, policy[:200] > policy[200:])


def test_t34_gradients_are_entangled_and_a_balanced_loser_spares_the_winner():
    features, weights = draw(2, 30), draw(30, seed=1).requires_grad_()  # log-probabilities linear in 30 weights
    policy = features @ weights
    loss = objectives.get("dpo", beta=1.0)(Evidence(policy, policy.detach()), Comparison.halves(1)).loss.sum()
    step = -0.01 * torch.autograd.grad(loss, weights)[0]
    gw, gl, c = features[0], features[1], 0.01 / 2
    close(features @ step, torch.stack([c * (gw @ gw - gw @ gl), c * (gw @ gl - gl @ gl)]))
    target, prediction = draw(2, 2, 25, seed=2)
    prediction[1] = target[1] + (prediction[0] - target[0]) * 0.8 + 0.5 * (prediction[1] - target[1])
    for mu in (0.0, 0.2, 0.9):
        share = outputs.balance(prediction, target, torch.tensor([[0, 1]]), mu=mu)
        winner, loser = prediction - target
        assert ((-winner + share * loser) @ winner) <= -mu * (winner @ winner) + 1e-9


def test_t35_conventions_of_diffusion_agree():
    policy, reference = torch.tensor([0.1000, 0.2000], dtype=F64), torch.tensor([0.1002, 0.1999], dtype=F64)
    ours = objectives.get("dpo", beta=5000.0)(Evidence(-0.5 * policy, -0.5 * reference), Comparison.halves(1)).metrics["rewards/margins"][0]
    close(ours, -0.5 * 5000 * ((policy[0] - policy[1]) - (reference[0] - reference[1])))
    close(ours, 2500 * ((reference[0] - reference[1]) - (policy[0] - policy[1])))


@pytest.mark.parametrize("link, convex", [
    (Logistic(), True), (Logistic(0.1), True), (Robust(0.1), True), (Hinge(), True), (Squared(0.1), True),
    (ReverseKL(1e-3), False), (Sigmoid(), False), (DiscoPOP(), False),
])
def test_t36_which_links_are_convex(link, convex):
    """A convex link's mean over noisy evidence bounds its value at the mean (Jensen)."""
    grid = torch.linspace(-8, 8, 4001, dtype=F64)
    y = link(grid, torch.ones_like(grid))
    assert bool((y[2:] + y[:-2] - 2 * y[1:-1] >= -1e-9).all()) is convex


def test_t36_scores_of_ratios():
    grid = torch.linspace(-8, 8, 4001, dtype=F64)
    evidence = Evidence(grid, torch.zeros_like(grid))
    y = Logistic()(JensenShannon()(evidence) - math.log(2), torch.ones_like(grid))
    assert (y[2:] + y[:-2] - 2 * y[1:-1] >= -1e-9).all()


def test_t37_a_squared_link_pays_for_the_variance_and_a_logistic_one_is_bounded():
    h = 2 + 1.5 * draw(20000, seed=9)
    ones = torch.ones_like(h)
    close(Squared(0.1)(0.1 * h, ones).mean(), (h.mean() - 5) ** 2 + h.var(correction=0), 1e-9)
    assert Logistic()(h, ones).mean() >= Logistic()(h.mean()[None], ones[:1]).sum()


def test_t38_one_denominator_for_all_micro_batches():
    evidence = of_ratios(A[:12], B[:12])
    whole = objectives.reduce(objectives.get("dpo", beta=0.1)(evidence, Comparison.halves(12)), 12)
    parts = torch.arange(12).split([3, 4, 5])
    rows = [Comparison(torch.stack([part, part + 12], dim=1)) for part in parts]
    close(sum(objectives.reduce(objectives.get("dpo", beta=0.1)(evidence, part), 12) for part in rows), whole)
    assert objectives.reduce(objectives.get("dpo", beta=0.1)(evidence, Comparison.halves(12)), 12) == pytest.approx(
        objectives.get("dpo", beta=0.1)(evidence, Comparison.halves(12)).loss.mean().item(), rel=1e-14)
