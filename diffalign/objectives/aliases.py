r"""Other names of the rows: what papers and trainers call them, and acronyms that several papers share.

An alias of one row resolves to it, with a sentence that says what is meant; one of several rows is refused, and the sentence says which
there are. Underscores are hyphens: TRL's apo_zero is apo-zero.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Alias:
    """`rows`: what the name may mean, canonical names. `note`: what is meant, or what tells them apart."""

    rows: tuple[str, ...]
    note: str


def _one(row: str, note: str) -> Alias:
    return Alias((row,), note)


ALIASES: dict[str, Alias] = {
    # TRL's names
    "sigmoid": _one("dpo", "TRL's name; like TRL's it does not smooth labels, cdpo does"),
    "exo-pair": _one("exo", "TRL's name"),
    "nca-pair": _one("nca", "TRL's name"),
    "robust": _one("robust-dpo", "TRL's name"),
    "ipo-trl": _one("ipo-mean", "TRL's ipo is on means over tokens; ipo here is on sums"),
    "alpha": _one("alphapo", "TRL's CPO option"),
    # the same objective, other data, masks, captions or references
    "osp": _one("dpo", "with each pair's strength as its probability (soft-preference cross-entropy, arXiv:2405.14103)"),
    "spce": _one("dpo", "with each pair's strength as its probability (soft-preference cross-entropy, arXiv:2405.14103)"),
    "rso": _one("hinge", "with beta as RSO's gamma (arXiv:2309.06657); its samples are recipes.rejection_sample's"),
    "rso-hinge": _one("hinge", "with beta as RSO's gamma (arXiv:2309.06657)"),
    "rso-sigmoid-norm": _one("dpo", "with beta as RSO's gamma: its norm is the reference; TRL's sigmoid_norm is sigmoid-norm"),
    "dove": _one("dpo", "on log-probabilities summed over prompt and response; the two sides differ in prompt (arXiv:2404.00530)"),
    "spin": _one("dpo", "rejected samples are the previous policy's, which is the reference too (arXiv:2401.01335)"),
    "smpo": _one("dpo", "with soft labels as Comparison.scale, and inversion: diffalign methods"),
    "inpo": _one("dpo", "with x_t by inversion: diffalign methods"),
    "dcpo": _one("dpo", "with a caption a side: diffalign methods"),
    "step-dpo": _one("dpo", "log-probabilities summed from the first diverging step on; what is before it is prompt"),
    "mcts-dpo": _one("dpo", "of siblings of a search, summed from the diverging step on; its ipo option is ipo"),
    "agent-q": _one("dpo", "of siblings of a search; reference log-probabilities are those recorded at sampling"),
    "tp-llama": _one("dpo", "of siblings of an inference tree"),
    "c-dpo": _one("dpo", "SENTINEL's: sentences of one verified context, which is masked prompt"),
    "rise": _one("dpo", "with a rejected response that is an edit of the chosen one (arXiv:2410.06638)"),
    "online-dpo": _one("dpo", "on fresh pairs"),
    "online-ipo": _one("ipo", "on fresh pairs labelled by a preference model; the probability may be soft"),
    "ipo-md": _one("ipo", "on pairs of the mixture of policy and reference, labelled by a preference model (arXiv:2403.08635)"),
    "slic-hf": _one("slic", "SLiC-HF"),
    "smaug": _one("dpop", "DPO-positive"),
    "irpo": _one("dpo-sft", "with nll_weight 1"),
    "refuel": _one("rebel", "on the tokens of a turn, with future returns as rewards"),
    "tdpo": Alias(("tdpo1", "tdpo2"), "the first and the second form of token-level DPO"),
    "f-dpo": Alias(("f-dpo-js", "f-dpo-forward-kl", "f-dpo-alpha"), "by divergence; the reverse KL's is dpo"),
    "pl": _one("plackett-luce", "Plackett and Luce"),
    "lambdarank": _one("lipo", "at the ranks of the policy; at those of the labels it is rankdpo"),
    "realign": _one("re-align", "spelt with a hyphen"),
    "nca-k": _one("nca-list", "of K samples"),
    "exo-k": _one("exo-list", "of K samples"),
    "apo-unpaired": _one("apo-zero-unpaired", "TRL's apo_zero_unpaired"),
    # acronyms that several papers share
    "apo": Alias(("apo-zero", "apo-down"), "anchored preference optimisation; accelerated PO is a way to step, not an objective"),
    "rdpo": Alias(("robust-dpo", "re-align", "rationale-dpo"), "robust to flipped labels, Re-Align's retrieval, or rationales"),
    "rpo": Alias(("dpo-sft", "reward-aware-bwd-kl", "reward-aware-fwd-kl", "reward-aware-sq"),
                 "regularised PO, DPO beside a likelihood, or NVIDIA's reward-aware PO"),
    "rpo-bwd-kl": _one("reward-aware-bwd-kl", "NeMo-Aligner's name"),
    "rpo-fwd-kl": _one("reward-aware-fwd-kl", "NeMo-Aligner's name"),
    "rpo-sq": _one("reward-aware-sq", "NeMo-Aligner's name"),
    "dapo": _one("direct-advantage", "direct advantage policy optimisation; ByteDance's DAPO is a loss of GRPO, not of preferences"),
    "hypo": Alias(("dpo-online-kl", "dpo-conditional-reference"), "the hybrid with a divergence on fresh samples (arXiv:2406.01462), or "
                  "Hybrid-DPO with a conditional reference (arXiv:2602.11902)"),
    "hybrid-dpo": _one("dpo-conditional-reference", "arXiv:2602.11902"),
    "mpo": _one("internvl-mpo", "InternVL's mix of losses; mixed PO in two stages is a recipe of data and references"),
    "gpo": _one("general-preference", "with a general preference model; the convex-link family is dpo, ipo and hinge"),
    "adpo": _one("adpo-anchored", "anchored direct PO of lists"),
    "a-star-po": _one("a2po", "A*-PO"),
    "direct-advantage-po": _one("direct-advantage", "of steps"),
    "kto-text": _one("kto-mismatched", "with a divergence from mismatched responses; kto takes the labelled samples' own"),
}  # fmt: skip
