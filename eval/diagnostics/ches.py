"""CHES: how alike the chosen and the rejected response of a pair are to the network, which is where likelihood displacement comes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ches(chosen: Sequence, rejected: Sequence, *, normalised: bool = False) -> np.ndarray:
    r"""(P,) centred hidden-embedding similarity of P pairs (arXiv:2410.08847).

        CHES = <H_w, H_l> - |H_w|^2,   H = sum_k h_k

    The higher, the more training on that pair is expected to take probability from the chosen response. 0 for two equal responses and where
    H_l - H_w is orthogonal to H_w; lowest for a chosen response that points away from the rejected one.
    ``normalised``: <H_w, H_l>/(n_w n_l) - |H_w|^2/n_w^2, n the counts of tokens: by it long responses can be compared with short ones.
    Source: the project's notes of the paper and of its released code; the paper's own equation was not checked. There is no analogue for a
    denoiser, whose samples are not products of tokens: see ``diagnostics.winner_rise`` for the displacement itself, and ``entanglement``
    for its cause.

    *Deviates:* the released code drops the last place of a padded batch, and with it the wrong state of every shorter response; here every
    response comes as its own array, and there is no padding.

    Args:
        chosen, rejected: P arrays (tokens, d), a response's last-layer hidden states: row k is the state that predicts its token k, so the
            first is that of the prompt's last token, and that of the response's last token is left out. NumPy or CPU float32 tensors.

    Raises:
        ValueError: the counts differ, a response has no token, widths differ, or numbers are not finite.
    """
    if len(chosen) != len(rejected) or not len(chosen):
        raise ValueError(f"got {len(chosen)} chosen and {len(rejected)} rejected responses; ches needs as many of both, and one at least")
    found = []
    for i, (w, l) in enumerate(zip(chosen, rejected, strict=True)):
        (h_w, n_w), (h_l, n_l) = _total(w, f"chosen {i}"), _total(l, f"rejected {i}")
        if h_w.shape != h_l.shape:
            raise ValueError(f"pair {i} has hidden states of width {len(h_w)} and {len(h_l)}: they must be of one network and layer")
        if normalised:
            h_w, h_l = h_w / n_w, h_l / n_l
        found.append(h_w @ h_l - h_w @ h_w)
    return np.array(found)


def least_similar(scores, share: float) -> np.ndarray:
    """Indices, in their order, of the ``share`` of pairs with the lowest CHES: the filter of arXiv:2410.08847, which trains on those alone.

    (That the paper keeps the lowest 5 % by the normalised score is from memory, not checked.) At least one is kept; ties go to the first.

    Raises:
        ValueError: share outside (0, 1], or scores that are no list of numbers.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must lie in (0, 1], such as 0.05")
    if scores.ndim != 1 or not scores.size or np.isnan(scores).any():
        raise ValueError(f"scores must be a list of numbers, one a pair; got shape {scores.shape} with {int(np.isnan(scores).sum())} NaN")
    count = max(1, round(share * len(scores)))
    return np.sort(np.argsort(scores, kind="stable")[:count])


def _total(states, name: str) -> tuple[np.ndarray, int]:
    """(d,) the sum over tokens, and their count."""
    states = np.asarray(states, dtype=np.float64)
    if states.ndim != 2 or not states.size:
        raise ValueError(f"{name} has hidden states of shape {states.shape}; it must be (tokens, d) with at least one token")
    if not np.isfinite(states).all():
        raise ValueError(f"{name} has hidden states that are not finite: were they computed in half precision?")
    return states.sum(0), len(states)
