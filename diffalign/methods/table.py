"""Named methods: each a point of the space with the settings its authors published, in our units (mean-over-latent errors)."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass

from diffalign.methods.point import Point

DPO_FORMULA = "-log sigmoid(-beta/2 * [(l_policy - l_ref)(chosen) - (l_policy - l_ref)(rejected)]), l = mean squared denoising error"


@dataclass(frozen=True)
class Method:
    """One published method. ``settings``: where the published numbers are from, and what is not known."""

    name: str
    title: str
    formula: str
    paper: str
    point: Point
    settings: str


ROWS = (
    Method(
        "diffusion-dpo", "Diffusion-DPO", DPO_FORMULA, "arXiv:2311.12908, eq. 14",
        Point("dpo", {"beta": 5000.0}), "released code, SDXL; SD 1.5: 2000 to 5000",
    ),
    Method(
        "mapo", "MaPO, as released", "l^w - beta log sigmoid(T (phi(l^w) - phi(l^l))), phi(l) = s l / (exp(s l) - 1), no reference",
        "arXiv:2406.06424v1, released code", Point("mapo", reference="none"), "beta 0.1, T 1000, s 0.5",
    ),
    Method(
        "mapo-paper", "MaPO, second version of the paper",
        "l^w - 1/beta log sigmoid(phi(l^w) - phi(l^l)), phi(l) = (l / (exp(l) - 1))^beta",
        "arXiv:2406.06424v2", Point("mapo-paper", reference="none"), "beta 8 for general preference",
    ),
    Method(
        "smpo", "SmPO-Diffusion", "diffusion-dpo on inverted x_t, with beta * 10 (2p - 1) for a soft label p",
        "arXiv:2506.02698, released code; the paper's equations were not verified",
        Point("dpo", {"beta": 5000.0}, noising="renoise-inversion", soft_label_scale=10.0, inversion={"steps": 10}),
        "SDXL: beta 5000, 10 steps; SD 1.5: beta 2000, 5 steps",
    ),
    Method(
        "inpo", "DDIM-InPO", "diffusion-dpo on x_t inverted by DDIM",
        "arXiv:2503.18454, released code; the paper's equations were not verified",
        Point("dpo", {"beta": 5000.0}, noising="ddim-inversion", inversion={"steps": 10, "eta": 0.1}), "SDXL: beta 5000; SD 1.5: beta 2000",
    ),
    Method(
        "dcpo", "DCPO, dual captions", "diffusion-dpo with each side's own caption, for policy and reference",
        "arXiv:2502.06023, released code", Point("dpo", {"beta": 500.0}, conditioning="dual captions"),
        "SD 2.1: beta 500. The release trains that v-prediction model on epsilon targets; here a model keeps its own target",
    ),
    Method(
        "diffusion-kto", "Diffusion-KTO", "lambda (1 - sigmoid(+-beta (r - q0))) of single samples, r = (l_ref - l_policy)/2",
        "arXiv:2404.04465, released code", Point("kto", {"beta": 2000.0}), "SD 1.5: 1000 without the one half, which is our 2000",
    ),
    Method(
        "linear-dpo", "Linear-DPO", "w (l^w - l^l), w = sg[clamp(1/2 - 0.4 z, eta, 1 - eta)]",
        "arXiv:2605.21123, released code", Point("linear-dpo", {"beta": 500.0}),
        "SDXL: beta 500, eta 0, a frozen reference; SD 1.5: beta 100, eta 0.001, reference ema with decay 0.99",
    ),
    Method(
        "diffusion-sdpo", "Diffusion-SDPO", "diffusion-dpo whose loser's gradient is scaled so that the winner's error does not rise",
        "arXiv:2511.03317, released code", Point("sdpo", {"beta": 5000.0}), "beta 5000, mu 0.9",
    ),
    Method(
        "dspo", "DSPO", "|(e_policy - e) - k (e_policy - e_ref)|^2 of the winner, k = beta sigmoid(-z)",
        "released code (huaishengzhu/DSPO), SD 1.5 branch; not verified against the paper", Point("dspo", {"beta": 0.01}), "0.001 to 0.05",
    ),
    Method(
        "dmpo", "DMPO, reverse KL", "KL(Bernoulli(sigmoid(z)) || Bernoulli(q)), q = p (1 - alpha) + (1 - p) alpha",
        "arXiv:2507.07510; formula from a re-implementation, not verified against the paper", Point("dmpo", {"beta": 2000.0}),
        "SD 1.5: beta 2000, alpha 0.01 (a launcher of Diffusion-SDPO's code, which adds that method's balance)",
    ),
    Method(
        "rankdpo", "RankDPO", "-sum over pairs of a list of Delta_ij log sigmoid(beta (r_i - r_j)), Delta from DCG; shared noise",
        "arXiv:2410.18013", Point("rankdpo", {"beta": 5000.0}), "beta is not in our notes of the paper; 5000 is Diffusion-DPO's",
    ),
    Method(
        "capo", "CaPO", "(beta (r_w - r_l) - (R_w - R_l))^2, the calibrated rewards' gap as the pair's margin",
        "arXiv:2502.02588; not verified against the paper", Point("capo", {"beta": 5000.0}), "beta unknown; 5000 is Diffusion-DPO's",
    ),
    Method(
        "seppo", "SePPO", "diffusion-dpo, z = beta (r_w - s r_l), s = -1 where the policy is worse than the reference on the winner",
        "arXiv:2410.05255; from reviews, not verified against the paper", Point("seppo", {"beta": 5000.0}),
        "beta unknown; 5000 is Diffusion-DPO's. The rejected samples are to be drawn by an earlier policy, which is also its reference: "
        "diffalign self-play does that; on pairs as they are the reference is the start",
    ),
    Method(
        "spin-diffusion", "SPIN-Diffusion, self-play", "diffusion-dpo; chosen: the data's own image, rejected: drawn by the reference",
        "arXiv:2402.10210; from secondary sources, neither paper nor code was read", Point("dpo", {"beta": 5000.0}),
        "beta unknown; 5000 is Diffusion-DPO's. The reference is the policy before the round that trains: diffalign self-play draws the "
        "rejected samples and runs the rounds. Whether noise is shared is not in our notes",
    ),
    Method(
        "diffusion-npo", "Diffusion-NPO, the negative model", "diffusion-dpo with chosen and rejected exchanged",
        "released code (G-U-N/Diffusion-NPO)", Point("dpo", {"beta": 1000.0}, swap=True),
        "SD 1.5: 500 without the one half, which is our 1000. The result is for the unconditional branch of guidance",
    ),
    Method(
        "sft", "Fine-tuning on the winners", "l^w", "baseline of arXiv:2311.12908", Point("sft", reference="none"), "none",
    ),
)  # fmt: skip
TABLE = {method.name: method for method in ROWS}


def names() -> list[str]:
    return list(TABLE)


def get(name: str) -> Method:
    """The method of that name. Raises ValueError naming the nearest known one."""
    if name not in TABLE:
        near = [known for known in TABLE if known.endswith(f"-{name}")] or difflib.get_close_matches(name, TABLE, n=1)
        raise ValueError(f"unknown method {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(TABLE)}"))
    return TABLE[name]


def facts(method: Method) -> dict:
    """The row as plain data, for ``diffalign methods --json``."""
    row = dataclasses.asdict(method)
    return {**row, "point": {"source": method.point.source, **row["point"]}}
