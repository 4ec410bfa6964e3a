"""What a learned reward sees of pairs: pixels and tokens, or the outputs of towers that are not trained, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from tqdm import tqdm

from diffalign import data
from diffalign.train.reward_network import ClipReward

KEPT_BYTES = 2**31  # prepared images are kept in memory where all of them take less
THREADS = 4


class Inputs:
    """Images and captions of pairs, for one network.

    Rows of a batch of B pairs: ``side * B + b`` is side ``side`` of pair b, as of every pair batch. Both sides are judged against the
    prompt, also where a side has a caption of its own.

    Args:
        frozen: the towers are not trained: their outputs are computed here, once, and kept instead of pixels.
    """

    def __init__(self, clip: ClipReward, pairs: Sequence[data.Pair], device: torch.device, *, frozen: bool, batch_size: int, quiet: bool):
        self.clip, self.pairs, self.device = clip, pairs, device
        size = clip.network.config.vision_config.image_size
        self.keep = 2 * len(pairs) * 3 * size**2 * 4 <= KEPT_BYTES
        self.kept: dict[tuple[int, int], Tensor] = {}
        self.towers: tuple[Tensor, dict[str, Tensor]] | None = None
        if frozen:
            self.towers = self._all(batch_size, quiet)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(encoded images (2B, W), encoded captions (U, W'), row of each image's caption among them (2B,)); every caption once."""
        rows = [(i, side) for side in (0, 1) for i in indices]
        said = [self.pairs[i].prompt for i, _ in rows]
        captions = list(dict.fromkeys(said))
        which = torch.tensor([captions.index(caption) for caption in said], device=self.device)
        if self.towers is not None:
            images, texts = self.towers
            at = torch.tensor([2 * i + side for i, side in rows], device=self.device)
            return images[at], torch.stack([texts[caption] for caption in captions]), which
        images = self.clip.encode_images(self._pixels(rows).to(self.device))
        return images, self.clip.encode_captions(self.clip.tokens(captions).to(self.device)), which

    def _pixels(self, rows: list[tuple[int, int]]) -> Tensor:
        missing, found = [row for row in rows if row not in self.kept], {}
        if missing:
            with ThreadPoolExecutor(THREADS) as pool:
                prepared = pool.map(lambda row: self.clip.pixels([self.pairs[row[0]].images[row[1]]])[0], missing)
                found = dict(zip(missing, prepared, strict=True))
        if self.keep:
            self.kept |= found
        return torch.stack([self.kept[row] if row in self.kept else found[row] for row in rows])

    @torch.no_grad()
    def _all(self, batch_size: int, quiet: bool) -> tuple[Tensor, dict[str, Tensor]]:
        self.keep, rows = False, [(i, side) for i in range(len(self.pairs)) for side in (0, 1)]
        bar = tqdm(range(0, len(rows), 2 * batch_size), desc="encode", unit="batch", disable=quiet)
        images = [self.clip.encode_images(self._pixels(rows[at : at + 2 * batch_size]).to(self.device)) for at in bar]
        captions, texts = list(dict.fromkeys(pair.prompt for pair in self.pairs)), {}
        for at in range(0, len(captions), batch_size):
            some = captions[at : at + batch_size]
            texts |= dict(zip(some, self.clip.encode_captions(self.clip.tokens(some).to(self.device)), strict=True))
        return torch.cat(images) if images else torch.zeros(0), texts
