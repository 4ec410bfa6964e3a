"""CLAP on tiny random weights: against a written-out computation, deterministic, whatever the batch."""

import io
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffalign.rewards import clap, load_reward

wavfile = pytest.importorskip("scipy.io.wavfile")
MELS, RATE, SECONDS = 16, 4800, 1
FRAME, HOP = 256, 48
AUDIO = dict(
    spec_size=64, num_mel_bins=MELS, hidden_size=32, depths=[1, 1], num_attention_heads=[2, 2], patch_embeds_hidden_size=16, window_size=4,
    num_hidden_layers=2,
)  # fmt: skip
PROMPTS = ["a dog barks", "rain on a tin roof, far thunder", "music"]


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def folder(request, tmp_path_factory):
    """A checkpoint in the published format."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    folder = tmp_path_factory.mktemp("clap")
    vocabulary = write_tokenizer(folder)
    fusion = dict(enable_fusion=True, fusion_type="aff_2d") if request.param else {}
    text = dict(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=90
    )
    config = ClapConfig(text_config=text, audio_config={**AUDIO, **fusion}, projection_dim=24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ClapModel(config)
        for value in network.parameters():
            torch.nn.init.normal_(value, std=0.3)
        network.audio_model.audio_encoder.batch_norm.running_mean.normal_(-30, 3)
        network.audio_model.audio_encoder.batch_norm.running_var.fill_(100)
        network.save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=MELS, sampling_rate=RATE, hop_length=HOP, max_length_s=SECONDS, fft_window_size=FRAME, frequency_max=2000
    ).save_pretrained(folder)
    return folder


def write_tokenizer(folder):
    """RoBERTa's files with the bytes alone: the vocabulary's size."""
    from tokenizers.pre_tokenizers import ByteLevel

    entries = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(entries)


def sound(seed, seconds=0.7):
    t = np.arange(int(RATE * seconds)) / RATE
    rng = np.random.default_rng(seed)
    return sum(rng.uniform(0.05, 0.3) * np.sin(2 * np.pi * rng.uniform(50, 1500) * t + rng.uniform(0, 6)) for _ in range(4))


# The computation, written out -----------------------------------------------------------------------------------------------------------


def mel_filters(fused):
    """(bins, mels): triangles on the mel scale, HTK's without a norm (fused), Slaney's of equal area (unfused)."""
    if fused:
        to_mel, to_hertz = lambda f: 2595 * np.log10(1 + f / 700), lambda m: 700 * (10 ** (m / 2595) - 1)
    else:  # linear to 1000 Hz, then 27 steps of a factor of 6.4
        to_mel = lambda f: np.where(f < 1000, f * 3 / 200, 15 + np.log(np.maximum(f, 1e-9) / 1000) * 27 / np.log(6.4))  # noqa: E731
        to_hertz = lambda m: np.where(m < 15, m * 200 / 3, 1000 * np.exp((m - 15) * np.log(6.4) / 27))  # noqa: E731
    edges = to_hertz(np.linspace(to_mel(np.float64(0)), to_mel(np.float64(2000)), MELS + 2))
    frequencies = np.linspace(0, RATE / 2, FRAME // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    filters = np.maximum(0, np.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle)))
    return filters if fused else filters * 2 / (high - low)


def expected(folder, samples, prompts):
    from transformers import ClapModel, RobertaTokenizer

    network = ClapModel.from_pretrained(folder).eval()
    fused = network.config.audio_config.enable_fusion
    features = []
    for sample in samples:
        kept = sample[: RATE * SECONDS]
        kept = np.tile(kept, RATE * SECONDS // len(kept))
        kept = torch.from_numpy(np.pad(kept, (0, RATE * SECONDS - len(kept))))
        window = torch.hann_window(FRAME, dtype=torch.float64)
        power = torch.stft(kept, FRAME, HOP, window=window, center=True, pad_mode="reflect", return_complex=True).abs() ** 2
        mels = 10 * torch.log10((power.T @ torch.from_numpy(mel_filters(fused))).clamp(min=1e-10))
        features.append(mels.float().expand(4 if fused else 1, -1, -1))
    tokenizer = RobertaTokenizer.from_pretrained(folder)
    with torch.no_grad():
        heard = network.audio_model(input_features=torch.stack(features), is_longer=torch.zeros(len(features), 1, dtype=torch.bool))
        heard = F.normalize(mlp(network.audio_projection, heard.pooler_output), dim=-1)
        said = []
        for prompt in prompts:  # one by one: no padding
            said.append(network.text_model(input_ids=torch.tensor([tokenizer(prompt)["input_ids"]])).pooler_output)
        said = F.normalize(mlp(network.text_projection, torch.cat(said)), dim=-1)
    return (heard * said).sum(-1).tolist()


def mlp(head, x):
    return F.relu(x @ head.linear1.weight.T + head.linear1.bias) @ head.linear2.weight.T + head.linear2.bias


# Tests ----------------------------------------------------------------------------------------------------------------------------------


def test_scores_are_the_written_out_ones(folder):
    samples = [sound(0), sound(1, 0.3), sound(2, 1.0)]
    scores = load_reward("clap", str(folder)).score([(RATE, sample) for sample in samples], PROMPTS)
    assert scores.tolist() == pytest.approx(expected(folder, samples, PROMPTS), abs=1e-5)
    assert scores.dtype == torch.float32 and len({round(score, 3) for score in scores.tolist()}) == 3


def test_always_the_same_whatever_the_batch(folder):
    """transformers' own extractor crops longer sounds at random and marks a random short one as longer."""
    samples = [(RATE, sound(0)), (RATE, sound(1, 2.5)), (RATE, sound(2, 1.7))]
    reward = load_reward("clap", str(folder))
    first = reward.score(samples, PROMPTS)
    for seed in range(3):
        np.random.seed(seed)
        assert reward.score(samples, PROMPTS).tolist() == first.tolist()
    order = [2, 0, 1]
    turned = reward.score([samples[i] for i in order], [PROMPTS[i] for i in order], batch_size=1)
    assert turned.tolist() == pytest.approx(first[order].tolist(), abs=1e-6)
    matrix = reward.score_matrix(samples, PROMPTS)
    assert matrix.diagonal().tolist() == pytest.approx(first.tolist(), abs=1e-6) and matrix.shape == (3, 3)
    assert float(reward.score(samples[:1], "x" * 500)) == float(reward.score(samples[:1], "x" * 600))  # cut at 77 tokens


def test_the_crop_is_the_first_or_the_middle_second(folder):
    long = sound(1, 2.5)
    first, center = load_reward("clap", str(folder)), load_reward("clap", str(folder), crop="center")
    part = long[int(0.75 * RATE) : int(1.75 * RATE)]
    one = lambda reward, sample: float(reward.score([(RATE, sample)], PROMPTS[0]))  # noqa: E731
    assert one(first, long) == one(first, long[:RATE]) != one(first, part)
    assert one(center, long) == one(first, part)
    assert first.state()["crop"] == "first"


def test_wav_files_of_every_kind(folder, tmp_path):
    wave = sound(3)
    kinds = {
        "int16": np.round(wave * 32768).astype(np.int16),
        "int32": np.round(wave * 2**31).astype(np.int32),
        "float32": wave.astype(np.float32),
        "uint8": np.round(wave * 128 + 128).astype(np.uint8),
    }
    for kind, samples in kinds.items():
        stereo = np.stack([samples, samples], axis=1)
        for channels in (samples, stereo):
            wavfile.write(tmp_path / "s.wav", RATE, channels)
            for source in (tmp_path / "s.wav", str(tmp_path / "s.wav"), (tmp_path / "s.wav").read_bytes(), (RATE, channels)):
                rate, found = clap.read(source)
                assert rate == RATE and found.dtype == np.float64
                np.testing.assert_allclose(found, wave, atol={"int16": 2**-15, "uint8": 2**-7}.get(kind, 1e-7))
    rate, mean = clap.read((RATE, np.stack([wave, -wave], axis=1)))
    assert abs(mean).max() == 0


def test_resampling_keeps_a_tone():
    t = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 440 * t)
    found = clap.resampled(16000, tone, 48000)
    wanted = np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)
    assert len(found) == 48000
    np.testing.assert_allclose(found[1000:-1000], wanted[1000:-1000], atol=2e-3)
    assert clap.resampled(44100, tone, 48000).shape == (int(np.ceil(16000 * 160 / 147)),)


def test_sixteen_bits_as_laion_clap(folder):
    reward = load_reward("clap", str(folder), int16=True)
    rounded = np.trunc(sound(0) * 32767) / 32767
    assert reward.score([(RATE, sound(0))], "x").tolist() == load_reward("clap", str(folder)).score([(RATE, rounded)], "x").tolist()


def test_mistakes_are_named(folder, tmp_path):
    (tmp_path / "s.wav").write_bytes(b"ID3 this is an mp3 file")
    buffer = io.BytesIO()
    wavfile.write(buffer, RATE, np.zeros(0, np.int16))
    wrong = [
        (tmp_path / "s.wav", "Sounds are .wav files"),
        (b"", "Sounds are .wav files"),
        (3.0, "got float"),
        ((RATE, np.zeros((2, 2, 2))), r"\(T,\) or"),
        (buffer.getvalue(), "T above 0"),
        ((RATE, np.array([np.nan])), "not finite"),
    ]
    for sample, said in wrong:
        with pytest.raises(ValueError, match=said):
            clap.read(sample)
    with pytest.raises(FileNotFoundError):
        clap.read(tmp_path / "nowhere.wav")
    with pytest.raises(ValueError, match="allowed are first, center"):
        load_reward("clap", str(folder), crop="random")
    with pytest.raises(FileNotFoundError, match="reward 'clap' needs .*laion/clap-htsat-unfused"):
        load_reward("clap", str(tmp_path))
