"""Log-probabilities of a reference that are computed once, before training: no copy of the weights, no second forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from diffalign import data
from diffalign.llm.batch import TextBatch
from diffalign.llm.models import TokenOutput
from diffalign.models.reference import Reference, evaluating


class Precomputed(Reference):
    """The log-probabilities that the weights training starts from give the records' tokens, by the content of a row.

    They are kept in ``folder``, under the content of the weights: another run with the same weights and texts finds them there, one with
    other weights has a folder of its own, and a folder whose weights do not match is refused (``data.TensorCache``).

    Args:
        model: a ``LanguageModel`` whose weights are those that training starts from. kind: "start" or "base", for the log.
        batches: that hold every row the run will ask for. folder: where they are kept; None keeps them in memory.

    Raises:
        ValueError: the folder was made by other weights. On ``predict``: a row that was not among the batches.
    """

    equals_policy_at_start = True

    def __init__(
        self, model, batches: Iterable[TextBatch], folder: Path | None, *, kind: str = "start", autocast=nullcontext, quiet: bool = True
    ):
        super().__init__(model)
        self.kind = kind
        facts = model.provenance()
        place = None if folder is None else folder / f"logps-{data.content_key(repr(sorted(facts.items())))[:12]}"
        self.cache = data.TensorCache(place, facts)
        for batch in tqdm(batches, desc="reference", unit="batch", disable=quiet):
            missing = [i for i, key in enumerate(row_keys(batch.input_ids, batch.trained)) if key not in self.cache]
            if missing:
                self._compute(batch.input_ids[missing], batch.trained[missing], autocast)
        self.cache.flush()

    @torch.no_grad()
    def _compute(self, input_ids: Tensor, trained: Tensor, autocast) -> None:
        with evaluating(self.model.module), autocast():
            logps = self.model.predict(input_ids.to(self.model.device), trained.to(self.model.device)).logps.cpu()
        for key, row, mask in zip(row_keys(input_ids, trained), logps, trained[:, 1:], strict=True):
            self.cache.put(key, {"logps": row[mask]})

    def predict(self, input_ids: Tensor, trained: Tensor) -> TokenOutput:
        """Log-probabilities alone: no ``states``, and ``squares`` that are not a number."""
        wanted, keys = trained[:, 1:], row_keys(input_ids, trained)
        if absent := [key for key in keys if key not in self.cache]:
            raise ValueError(f"{len(absent)} of {len(keys)} texts were not there when the reference was computed: compute it of these too")
        found = torch.cat([self.cache.get(key)["logps"] for key in keys]).to(input_ids.device)
        logps = found.new_zeros(wanted.shape).masked_scatter(wanted, found)
        return TokenOutput(logps, torch.full_like(logps, torch.nan), None)

    def describe(self) -> str:
        return f"{self.kind}: log-probabilities of {len(self.cache)} texts, computed before training (no copy)"


def row_keys(input_ids: Tensor, trained: Tensor) -> list[str]:
    """A key of every row's tokens up to the last that is trained, and of which are; what fills a row up does not count."""
    keys = []
    for ids, flags in zip(input_ids.cpu(), trained.cpu(), strict=True):
        end = int(flags.nonzero()[-1]) + 1
        keys.append(data.content_key("row", ids[:end].numpy().tobytes(), flags[:end].numpy().tobytes()))
    return keys
