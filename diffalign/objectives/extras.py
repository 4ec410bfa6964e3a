r"""The further numbers that evidence may carry beside `policy`, `reference` and `size`, by name: what an objective's `extra:NAME` asks for.

A step measures those that are among the objective's `needs` and puts them into `Evidence.extra`. "Starts at 0" holds where policy and
reference are equal. Below, t runs over the trained response tokens, lr_t = log pi(y_t) - log ref(y_t), and sg[] stops the gradient.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Extra:
    """One named number.

    Args:
        each: "sample", shape (N,), or "pair", shape (P,).
        unit: in which it is measured.
        what: it is.
        gradient: whether the objectives want it with gradient (otherwise they detach it, or it is data).
        starts_at_zero: whether it is 0 while policy and reference are equal.
    """

    each: str
    unit: str
    what: str
    gradient: bool = True
    starts_at_zero: bool = False


SQUARED = "mean squared error over latent elements"
NATS = "nats"

EXTRAS: dict[str, Extra] = {
    # of a denoising step: diffalign/denoising/outputs.py measures them
    "drift": Extra("sample", SQUARED, "mean of (prediction - reference prediction)^2", starts_at_zero=True),
    "cross": Extra("sample", SQUARED, "mean of (prediction - target) (prediction - reference prediction)", starts_at_zero=True),
    "balance": Extra("pair", "share in [0, 1]", "how much of the loser's gradient is kept (Diffusion-SDPO)", gradient=False),
    # sums over the tokens of a response other than the plain one
    "tail": Extra("sample", NATS, "sum of lr_t over the tokens after the first min(|w|, |l|) of its pair; 0 for the shorter side",
                  starts_at_zero=True),
    "sequential_kl": Extra("sample", NATS, "sum_t KL(ref || pi) over the vocabulary at every response position", starts_at_zero=True),
    "masked": Extra("sample", NATS, "sum_t m_t lr_t, m_t >= 0 SparsePO's mask of the reward", starts_at_zero=True),
    "masked_kl": Extra("sample", NATS, "sum_t m_t KL_t(ref || pi), m_t >= 0 SparsePO's mask of the divergence", starts_at_zero=True),
    "guided": Extra("sample", "nats^2", "sum_t sg[log guide(y_t) - log ref(y_t)] lr_t, the guide a frozen policy trained by DPO",
                    starts_at_zero=True),
    "self_agreement": Extra("sample", NATS, "mean_t of log pi(y_t) - log sum_v pi(v)^2: how typical the response is of the policy",
                            gradient=False),
    "token_kl": Extra("sample", "nats^2", "sum_t sg[lr_t] log pi(y_t) of a sample of the policy (TRL's estimate of the KL's gradient)",
                      starts_at_zero=True),
    # the same responses elsewhere
    "joint": Extra("sample", NATS, "sum of log pi over prompt and response tokens"),
    "joint_size": Extra("sample", "tokens", "how many tokens `joint` was summed over", gradient=False),
    "contrast": Extra("sample", NATS, "log-ratio of the same response under another condition (another or a masked image); read of "
                      "winners, so with plain labels any finite number does for losers", starts_at_zero=True),
    "mismatched": Extra("sample", NATS, "log-ratio of another record's response after this prompt", gradient=False, starts_at_zero=True),
    "rationale": Extra("pair", NATS, "sum of log pi over the tokens of a rationale that says why the chosen response is the better one"),
    "rationale_size": Extra("pair", "tokens", "how many tokens `rationale` was summed over", gradient=False),
    "online_kl": Extra("pair", "nats^2", "sg[log-ratio] log pi of a fresh sample of the policy for the pair's prompt, sums over tokens",
                       starts_at_zero=True),
    # of other models
    "teacher_kl": Extra("sample", NATS, "sum_t KL(teacher || pi) over the vocabulary"),
    "distillation": Extra("sample", "nats times beta", "sum_t of the token's beta times KL(pi || AlignDistil's extrapolated teacher)"),
    "advantage": Extra("pair", NATS, "sum_t sum_v pi(v) (log teacher(v) - log teacher's reference(v)) on a response of the policy itself"),
    "prior": Extra("sample", NATS, "log-probability under the prior of BRAIn, where `reference` is that of the proposal it was drawn from",
                   gradient=False),
    "spectral_gap": Extra("pair", "mean squared amplitude", "distance of the perturbed chosen's token spectrum to the clean chosen's, "
                          "minus that to the clean rejected's (TARS)"),
    # data
    "prompt_distance": Extra("pair", "1 - cosine, in [0, 2]", "distance of the embeddings of the prompt and of the chosen response",
                             gradient=False),
    "from_reference": Extra("sample", "0 or 1", "1 where the response was sampled by the reference", gradient=False),
}  # fmt: skip
