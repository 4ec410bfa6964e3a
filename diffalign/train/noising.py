"""Where x_t comes from: noise added to x0, or x0 taken up the network's own ODE."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from diffalign.data import TensorCache, content_key
from diffalign.denoising import Inversion, Path, noise_of
from diffalign.methods import Point
from diffalign.models.reference import evaluating
from diffalign.train.batch import Batch


class Noising:
    """``noising(model, reference, batch) -> x_t, noise``: both (N, C, h, w) float32 on the batch's device, x_t = alpha x0 + sigma noise.

    For ``shared`` and ``independent`` noising the batch brings the noise (``batch.noise``). For an inversion x_t comes first, by the policy
    or the reference with each sample's own caption, in evaluation mode and without guidance, and the noise is what leads from x0 to it.

    Args:
        point: of the method.
        levels: where the levels of an inversion by the reference are kept, keyed by latents and conditioning (``Point.not_cacheable``);
            then only a sample's first batch follows the ODE, and later ones make its last step. None: nothing is kept.
    """

    def __init__(self, point: Point, levels: TensorCache | None = None):
        self.inversion: Inversion | None = point.build_inversion()
        self.by, self.levels = point.inverted_by, levels

    def __call__(self, model, reference, batch: Batch, autocast: Callable = nullcontext) -> tuple[Tensor, Tensor]:
        if self.inversion is None:
            return model.path.add_noise(batch.x0, batch.noise, batch.t), batch.noise

        def predict(x: Tensor, t: Tensor, conditioning=batch.conditioning) -> Tensor:
            with autocast():
                return (reference if self.by == "reference" else model).predict(x, t, conditioning)

        added = None if self.inversion.eta == 0 else (lambda i: batch.normal(f"inversion/{i}"))
        with torch.no_grad(), evaluating(model.denoiser):
            levels = None if self.levels is None else self._levels(predict, model.path, batch)
            x_t = self.inversion.invert(predict, model.path, batch.x0, batch.t, cache=levels, noise=added)
        return x_t, noise_of(model.path, batch.x0, x_t, batch.t)

    def _levels(self, predict: Callable, path: Path, batch: Batch) -> Tensor:
        """(L, N, C, h, w) of the batch; those that are not kept yet are made together, and kept."""
        keys = [_row_key(batch, row) for row in range(len(batch.x0))]
        first = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self.levels}
        if first:
            rows = torch.tensor(sorted(first.values()), device=batch.x0.device)
            conditioning = {name: value[rows] for name, value in batch.conditioning.items()}
            made = self.inversion.levels(lambda x, t: predict(x, t, conditioning), path, batch.x0[rows])
            for row, levels in zip(rows.tolist(), made.unbind(1), strict=True):
                self.levels.put(keys[row], {"levels": levels})
        return torch.stack([self.levels.get(key)["levels"] for key in keys], dim=1).to(batch.x0.device)


def _row_key(batch: Batch, row: int) -> str:
    """What a row's levels depend on in the batch: its latents and its conditioning, bit for bit."""
    parts = {"x0": batch.x0, **batch.conditioning}
    return content_key(*(part for name in sorted(parts) for part in (name, _bytes(parts[name][row]))))


def _bytes(tensor: Tensor) -> bytes:
    return str((tensor.dtype, tuple(tensor.shape))).encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
