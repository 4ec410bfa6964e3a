"""CLAP: how well a sound fits its caption, by the cosine of LAION's audio and text towers (arXiv:2211.06687). Always the same number."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffalign.extras import require
from diffalign.rewards import tokenizers
from diffalign.rewards import weights as files
from diffalign.rewards.base import Reward, frozen
from diffalign.rewards.towers import pooled, unit
from diffalign.rewards.weights import Source

REPOSITORY = "laion/clap-htsat-unfused"
EXTRACTOR = Source(REPOSITORY, (("preprocessor_config.json",),))
SPOKEN = Source(REPOSITORY, tokenizers.CLIP_FILES, tokenizers.SETTINGS)  # RoBERTa's files have the same names as CLIP's
TOKENS = 77  # laion_clap's
CROPS = ("first", "center")
COUNTERS = ("embeddings.position_ids", "embeddings.token_type_ids")  # 0, 1, 2, ... and zeros, which not every version writes


class CLAP(Reward):
    """score = cos(audio, prompt), in [-1, 1]."""

    modality = "audio"
    packages = ("torch", "transformers", "scipy", "numpy")

    def __init__(self, name: str, network: Any, extractor: Any, tokenizer: tokenizers.Tokenizer, crop: str, int16: bool, **base: Any):
        super().__init__(name, crop=crop, int16=int16, **base)
        self.network, self.extractor, self.tokenizer, self.crop, self.int16 = network, extractor, tokenizer, crop, int16
        self.path = "fusion" if network.config.audio_config.enable_fusion else "rand_trunc"

    def read(self, sample: Any) -> tuple[int, np.ndarray]:
        return read(sample)

    def prepare(self, decoded: tuple[int, np.ndarray]) -> Tensor:
        """(1 or 4, frames, mels): the log-mel spectrogram of 10 s, shorter sounds repeated and then filled up with silence."""
        sound, most = resampled(*decoded, self.extractor.sampling_rate), self.extractor.nb_max_samples
        if self.int16:
            sound = np.trunc(np.clip(sound, -1, 1) * 32767) / 32767
        start = (len(sound) - most) // 2 if self.crop == "center" and len(sound) > most else 0
        kept = sound[start : start + most]  # so nothing is left for the extractor's random crop
        mels = self.extractor(kept, truncation=self.path, padding="repeatpad", sampling_rate=self.extractor.sampling_rate)
        return torch.from_numpy(np.asarray(mels["input_features"][0], dtype=np.float32))

    def measure(self, batch: Tensor, prompts: list[str]) -> Tensor:
        return (self._heard(batch) * self._said(prompts)).sum(-1)

    def measure_matrix(self, batch: Tensor, prompts: list[str]) -> Tensor:
        return self._heard(batch) @ self._said(prompts).T

    def _heard(self, batch: Tensor) -> Tensor:
        never = torch.zeros(len(batch), 1, dtype=torch.bool, device=batch.device)  # the extractor marks one at random as longer
        return unit(pooled(self.network.get_audio_features(input_features=batch.to(self.network.dtype), is_longer=never)))

    def _said(self, prompts: list[str]) -> Tensor:
        tokens = {name: ids.to(self.network.device) for name, ids in self.tokenizer(prompts).items()}
        return unit(pooled(self.network.get_text_features(**tokens)))


def read(sample: Any) -> tuple[int, np.ndarray]:
    """A .wav file, its bytes, or (samples a second, array (T,) or (T, channels)) -> samples a second, and (T,) float64 in [-1, 1].

    Channels are averaged; integers are divided by their range; floats are taken as they are.
    Errors: ValueError for another form, a file that is no wav, no sound; OSError where a file cannot be opened.
    """
    if isinstance(sample, tuple) and len(sample) == 2:
        (rate, sound), where = (int(sample[0]), np.asarray(sample[1])), "a sound"
    elif isinstance(sample, str | Path | bytes):
        where = "a sound" if isinstance(sample, bytes) else f"'{sample}'"
        try:
            rate, sound = require("scipy.io.wavfile", extra="rewards").read(io.BytesIO(sample) if isinstance(sample, bytes) else sample)
        except ValueError as error:
            raise ValueError(f"{where} is not read: {error}. Sounds are .wav files; convert others first (ffmpeg -i IN OUT.wav)") from error
    else:
        raise ValueError(f"a sound is a .wav file, its bytes or (samples a second, array), got {type(sample).__name__}")
    if sound.ndim not in (1, 2) or not len(sound) or rate <= 0:
        raise ValueError(f"{where} must be (T,) or (T, channels) with T above 0, got {sound.shape} at {rate} samples a second")
    if sound.dtype.kind in "iu":
        middle = 2 ** (8 * sound.dtype.itemsize - 1)
        sound = sound.astype(np.float64) / middle - (1 if sound.dtype.kind == "u" else 0)
    sound = sound.astype(np.float64)
    if not np.isfinite(sound).all():
        raise ValueError(f"{where} has samples that are not finite")
    return rate, sound if sound.ndim == 1 else sound.mean(1)


def resampled(rate: int, sound: np.ndarray, wanted: int) -> np.ndarray:
    """(T,) at another rate, by scipy's polyphase filter (the kernel of it is a Kaiser window of 5.0)."""
    if rate == wanted:
        return sound
    common = math.gcd(rate, wanted)
    return require("scipy.signal", extra="rewards").resample_poly(sound, wanted // common, rate // common)


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype, crop: str = "first",
    int16: bool = False, tokenizer: str | None = None,
) -> CLAP:  # fmt: skip
    """The CLAP score of 10 s at 48 kHz.

    Args:
        weights: a folder with ``config.json``, ``model.safetensors`` (or ``pytorch_model.bin``), ``preprocessor_config.json`` and the
            tokenizer's files, of ``laion/clap-htsat-unfused`` or another CLAP of transformers (fused ones as well).
        config: a ``ClapConfig`` or its arguments.
        crop: which 10 s of a longer sound: first | center.
        int16: round to 16 bits first, as laion_clap does with files and arrays.
        tokenizer: a folder with RoBERTa's files, where the weights' has none.
    Source: transformers' ClapModel and ClapFeatureExtractor. Captions are cut at 77 tokens, as laion_clap cuts them.
    Errors: ValueError for another crop; those of ``weights.Source.find`` and ``weights.build``; ImportError without scipy.

    *Deviates:* published code takes a random 10 s of a longer sound, and transformers' marks a random sound of a batch as longer; here
    the crop is fixed and no sound is longer. laion_clap resamples by other filters and loads its own checkpoints (630k-audioset), so tables
    computed with it (Tango 2's, say) are near but not equal. Not compared with real weights.
    """
    from accelerate import init_empty_weights
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizer

    if crop not in CROPS:
        raise ValueError(f"reward '{name}': crop is '{crop}'; allowed are {', '.join(CROPS)}")
    found = Source(REPOSITORY, files.HF_MODEL if config is None else (files.HF_WEIGHTS,)).find(name, weights)
    path = found[-1]
    config = files.as_config(config, ClapConfig, lambda: ClapConfig.from_pretrained(path.parent))
    state = {key: value for key, value in files.read_state(path).items() if not key.endswith(COUNTERS)}
    with init_empty_weights():  # which leaves buffers what they are
        state |= {key: value for key, value in ClapModel(config).state_dict().items() if key.endswith(COUNTERS)}
    network = frozen(files.build(lambda: ClapModel(config), state, path), device, dtype)
    hears = ClapFeatureExtractor.from_json_file(EXTRACTOR.find(name, beside=path.parent)[0])
    if hears.feature_size != config.audio_config.num_mel_bins:
        bins = config.audio_config.num_mel_bins
        raise ValueError(f"reward '{name}': preprocessor_config.json makes {hears.feature_size} mel bands and the network wants {bins}")
    spoken = SPOKEN.find(name, tokenizer, option="tokenizer", beside=path.parent)[0].parent
    text = tokenizers.Tokenizer(RobertaTokenizer.from_pretrained(spoken), config.text_config.vocab_size, TOKENS, name=str(spoken))
    return CLAP(name, network, hears, text, crop, int16, device=device, dtype=dtype, weights=files.facts(path))
