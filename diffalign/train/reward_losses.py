r"""What a learned reward is fitted by: choices between two images, with ties, or against all other images of the batch.

z = s_chosen - s_rejected - margin,  s the full score exp(logit_scale) cos(image, caption). The logistic fit is the preference core's own
objective with the score as evidence; PickScore's softmax over the two images is its sigma(z).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffalign.objectives import Link, Logistic, PairObjective, PolicyEvidence

Kind = Literal["bradley-terry", "davidson"]


class Davidson(nn.Module, Link):
    r"""The link of the Bradley-Terry model with ties: with pi = e^s,

        P(w > l) = pi_w / N,   P(tie) = nu sqrt(pi_w pi_l) / N,   P(l > w) = pi_l / N,   N = pi_w + pi_l + nu sqrt(pi_w pi_l)

    that is the softmax of (z/2, log nu, -z/2); ``log_nu`` is trained along. loss = -a log P(w > l) - b log P(tie) - c log P(l > w) with
    (a, b, c) read off the label p: a = max(2p - 1, 0), c = max(1 - 2p, 0), b = 1 - a - c. So 1 is a win and 1/2 a tie; a label between
    is a mixture of the two, which is our reading. slope = (P(w > l) - P(l > w) - a + c) / 2.

    nu -> 0 without ties is the logistic link. Source: R. R. Davidson, JASA 65 (1970), 317-328; the formula as later papers give it.
    """

    def __init__(self, log_nu: float = 0.0):
        super().__init__()
        self.log_nu = nn.Parameter(torch.tensor(log_nu))

    def forward(self, z: Tensor, probability: Tensor) -> Tensor:
        return -(self._labels(probability) * self._logits(z).log_softmax(0)).sum(0)

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        win, _, loss = self._logits(z.detach()).softmax(0).detach()
        a, _, c = self._labels(probability)
        return (win - loss - a + c) / 2

    def tie(self, z: Tensor) -> Tensor:
        """P(tie)."""
        return self._logits(z).softmax(0)[1]

    def _logits(self, z: Tensor) -> Tensor:
        return torch.stack([z / 2, self.log_nu.expand_as(z), -z / 2])

    @staticmethod
    def _labels(probability: Tensor) -> Tensor:
        lean = 2 * probability - 1
        return torch.stack([lean.clamp(min=0), 1 - lean.abs(), (-lean).clamp(min=0)])


def objective(kind: Kind, label_smoothing: float = 0.0) -> tuple[PairObjective, dict[str, nn.Parameter]]:
    """The objective of pairs on scores as evidence, and what of it is trained: nothing, or ``log_nu``."""
    link = Davidson() if kind == "davidson" else Logistic(label_smoothing)
    return PairObjective(PolicyEvidence(), link, 1.0), {"log_nu": link.log_nu} if kind == "davidson" else {}


def against_batch(scores: Tensor, pairs: Tensor, probability: Tensor, same_caption: Tensor) -> Tensor:
    r"""PickScore's loss with in-batch negatives: each caption picks its image among all of the batch, each image its caption.

        loss_b = (T_b + I_b) / 2,   T_b = -sum_i p_i log softmax_i s(i, b),   I_b = -sum_i p_i log softmax_b' s(i, b')

    over the two images i of pair b, p the label of the chosen and 1 - p of the rejected.

    Args:
        scores: (2B, B) of every image against every pair's caption. pairs: (B, 2) rows (chosen, rejected). probability: (B,).
        same_caption: (2B, B), image i belongs to a pair with the caption of b: no negative, unless it is of b itself.
    Returns:
        (B,).

    Source: yuvalkirstain/PickScore, trainer/criterions/clip_criterion.py (``in_batch_negatives``, off by default).
    *Deviates:* a caption that occurs twice in a batch is no negative of itself.
    """
    count = len(pairs)
    own = torch.zeros_like(same_caption)
    own[pairs, torch.arange(count, device=pairs.device)[:, None]] = True
    allowed = scores.masked_fill(same_caption & ~own, -torch.inf)
    labels = torch.stack([probability, 1 - probability], 1)  # (B, 2)
    among_images = F.log_softmax(allowed, dim=0).T.gather(1, pairs)
    among_captions = F.log_softmax(allowed, dim=1)[pairs, torch.arange(count, device=pairs.device)[:, None]]
    return -(labels * (among_images + among_captions)).sum(1) / 2
