"""PickScore, HPSv2, CLIP score and the aesthetic predictor against the libraries their checkpoints are written for."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from diffalign.rewards import TABLE, load_reward, preprocess
from diffalign.rewards.aesthetic import FILE, SHA256
from diffalign.rewards.heads import affine
from tests.rewards import oracles, tiny

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
EXACT = dict(rtol=0, atol=1e-5)
IMAGES = [tiny.image(seed, size) for seed, size in enumerate([(64, 64), (90, 50), (48, 77), (300, 200)])]


@torch.no_grad()
def logits_of_transformers(folder, prompts):
    """transformers' own model, tokenizer and processor, end to end: (images, prompts)."""
    import transformers

    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": tiny.SIDE}, crop_size={"height": tiny.SIDE, "width": tiny.SIDE})
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    network = transformers.CLIPModel.from_pretrained(folder).eval()
    text = tokenizer(prompts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    return network(**text, pixel_values=processor(IMAGES, return_tensors="pt")["pixel_values"]).logits_per_image


def test_pickscore_is_transformers_end_to_end(tiny_folder, rewards):
    folder, _ = tiny.checkpoint("pickscore", tiny_folder)
    wanted = logits_of_transformers(folder, tiny.PROMPTS)
    torch.testing.assert_close(rewards("pickscore").score_matrix(IMAGES, tiny.PROMPTS), wanted, rtol=1e-6, atol=1e-5)


def test_scales_of_pickscore(tiny_folder, rewards):
    wanted = rewards("pickscore").score(IMAGES, tiny.PROMPTS)
    cosine = rewards("pickscore", scale="cosine").score(IMAGES, tiny.PROMPTS)
    torch.testing.assert_close(cosine * math.exp(4.6052), wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(rewards("pickscore", scale="flowgrpo").score(IMAGES, tiny.PROMPTS) * 26, wanted, rtol=1e-5, atol=0)
    assert cosine.abs().max() <= 1 and rewards("pickscore").state()["scale"] == pytest.approx(100.0, abs=0.01)
    assert rewards("pickscore", dtype=torch.bfloat16).scale == rewards("pickscore").scale
    with pytest.raises(ValueError, match="scale must be one of logit, cosine, flowgrpo, got 'raw'"):
        rewards("pickscore", scale="raw")


@pytest.mark.parametrize("eos", [2, 49407])
def test_text_is_pooled_at_end_of_text_by_either_rule(eos, tmp_path):
    """2 is in the configs of LAION's CLIP and PickScore, and means the largest id; padding is never pooled or attended to."""
    import transformers

    network = tiny.clip_network()
    network.config.text_config.eos_token_id = eos
    network.save_pretrained(tmp_path)
    tiny.write_clip_tokenizer(tmp_path)
    reward = load_reward("pickscore", str(tmp_path))
    assert reward.towers.network.text_model.eos_token_id == eos
    ids = torch.tensor([transformers.CLIPTokenizer.from_pretrained(tmp_path)("a red circle")["input_ids"]])
    with torch.no_grad():
        last = network.text_model(input_ids=ids).last_hidden_state[0, -1]
        wanted = F.normalize(network.text_projection(last), dim=-1)
    together = reward.towers.text(["a red circle", "a much longer prompt beside it, so that the first one is padded"])
    torch.testing.assert_close(together[0], wanted, **EXACT)


@pytest.fixture(scope="module")
def hps(tiny_folder):
    """The state dict of the tiny HPSv2.1, in the published file."""
    folder, _ = tiny.checkpoint("hpsv2.1", tiny_folder)
    return torch.load(folder / "HPS_v2.1_compressed.pt", weights_only=True)["state_dict"]


@torch.no_grad()
def test_hpsv21_is_open_clips_forward(hps, rewards):
    """Pixels by the letterbox test_preprocess.py compares with the published package."""
    open_clip = pytest.importorskip("open_clip")
    network = open_clip.CLIP(**tiny.OPEN_CLIP, output_dict=True)
    network.load_state_dict(hps)
    letterbox = preprocess.Preparation("letterbox", size=tiny.SIDE)
    text = open_clip.get_tokenizer("ViT-H-14")(tiny.PROMPTS)
    found = network.eval()(torch.stack([letterbox(image) for image in IMAGES]), text)
    wanted = torch.diagonal(found["image_features"] @ found["text_features"].T)
    torch.testing.assert_close(rewards("hpsv2.1").score(IMAGES, tiny.PROMPTS), wanted, **EXACT)


@torch.no_grad()
def test_hpsv21_is_the_checkpoint_converted_to_transformers(hps, rewards):
    network = oracles.clip_of(hps, tiny.OPEN_CLIP)
    letterbox = preprocess.Preparation("letterbox", size=tiny.SIDE)
    ids = rewards("pickscore").towers.tokenizer(tiny.PROMPTS)["input_ids"]  # transformers' own tokenizer
    found = network(input_ids=ids, pixel_values=torch.stack([letterbox(image) for image in IMAGES]))
    wanted = (found.image_embeds * found.text_embeds).sum(dim=-1)
    torch.testing.assert_close(rewards("hpsv2.1").score(IMAGES, tiny.PROMPTS), wanted, **EXACT)


def test_hpsv21_is_the_published_package_end_to_end(hps, tiny_folder, rewards, monkeypatch):
    """``hpsv2.img_score.score`` on the tiny checkpoint, with the tiny network in place of the one it downloads."""
    published = pytest.importorskip("hpsv2.img_score")
    vendored = pytest.importorskip("hpsv2.src.open_clip.model")
    transform = pytest.importorskip("hpsv2.src.open_clip.transform")
    vision, text = vendored.CLIPVisionCfg(**tiny.OPEN_CLIP["vision_cfg"]), vendored.CLIPTextCfg(**tiny.OPEN_CLIP["text_cfg"])
    network = vendored.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, output_dict=True)
    prepare = transform.image_transform(tiny.SIDE, is_train=False, resize_longest_max=True)
    monkeypatch.setattr(published, "model_dict", {"model": network, "preprocess_val": prepare})
    monkeypatch.setattr(published, "device", "cpu")
    checkpoint = str(tiny.checkpoint("hpsv2.1", tiny_folder)[0] / "HPS_v2.1_compressed.pt")
    for prompt in tiny.PROMPTS[:2]:
        wanted = torch.tensor([float(score) for score in published.score(IMAGES, prompt, cp=checkpoint)])
        torch.testing.assert_close(rewards("hpsv2.1").score(IMAGES, prompt), wanted, **EXACT)


def test_options_of_hps(rewards):
    wanted = rewards("hpsv2.1").score(IMAGES, tiny.PROMPTS)
    assert wanted.abs().max() <= 1
    torch.testing.assert_close(rewards("hpsv2.1", scale=100).score(IMAGES, tiny.PROMPTS), 100 * wanted)
    legacy = rewards("hpsv2.1-legacy").score(IMAGES, tiny.PROMPTS)
    torch.testing.assert_close(rewards("hpsv2.1", antialias=False).score(IMAGES, tiny.PROMPTS), legacy, rtol=0, atol=0)
    assert (legacy - wanted).abs().min() > 1e-5 and rewards("hpsv2.1-legacy").state()["preprocess"]["antialias"] is False
    cropped = rewards("hpsv2.1", preprocess="clip")
    assert cropped.state()["preprocess"]["fit"] == "crop" and (cropped.score(IMAGES, tiny.PROMPTS) - wanted)[1:].abs().min() > 1e-5
    for options, message in (
        ({"scale": 10}, "scale must be 1 .* or 100 .*, got 10"),
        ({"preprocess": "vit"}, "preprocess must be one of hps, clip, got 'vit'"),
        ({"preprocess": "clip", "antialias": False}, "antialias=False is a choice of preprocess='hps'"),
    ):
        with pytest.raises(ValueError, match=message):
            rewards("hpsv2.1", **options)


def test_the_version_of_hps_is_in_the_id(tiny_folder):
    """The published package scores with v2.0 and evaluates with v2.1 unless told: here each id reads its own file."""
    assert TABLE["hpsv2"][1]["file"] == "HPS_v2_compressed.pt" and TABLE["hpsv2.1"][1]["file"] == "HPS_v2.1_compressed.pt"
    with pytest.raises(FileNotFoundError, match="HPS_v2_compressed.pt"):
        load_reward("hpsv2", str(tiny.checkpoint("hpsv2.1", tiny_folder)[0]), config=tiny.OPEN_CLIP)


@torch.no_grad()
def embeddings(folder, prompts):
    """Unit features of transformers' CLIPModel behind openai/CLIP's preprocessing."""
    from transformers import CLIPModel, CLIPTokenizer

    network, prepare = CLIPModel.from_pretrained(folder).eval(), preprocess.Preparation(**preprocess.OPENAI.facts() | {"size": tiny.SIDE})
    text = CLIPTokenizer.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    found = network(**text, pixel_values=torch.stack([prepare(image) for image in IMAGES]))
    return found.image_embeds, found.text_embeds


def test_clip_scores_by_their_formulas(tiny_folder, rewards):
    image, text = embeddings(tiny.checkpoint("clip-l14", tiny_folder)[0], tiny.PROMPTS)
    cosine = (image * text).sum(dim=-1)
    torch.testing.assert_close(rewards("clip-l14").score(IMAGES, tiny.PROMPTS), cosine, **EXACT)
    torch.testing.assert_close(rewards("clip-l14", scale=100).score(IMAGES, tiny.PROMPTS), 100 * cosine, rtol=1e-5, atol=1e-5)
    image, text = embeddings(tiny.checkpoint("clip-b32", tiny_folder)[0], [f"A photo depicts {prompt}" for prompt in tiny.PROMPTS])
    torch.testing.assert_close(rewards("clip-b32").score(IMAGES, tiny.PROMPTS), 2.5 * (image * text).sum(dim=-1).clamp(min=0), **EXACT)
    with pytest.raises(ValueError, match=r"scale must be 1 \(the cosine\) or 100, or left out for the published one \(2.5\), got 3"):
        rewards("clip-b32", scale=3)


def test_a_negative_cosine_is_zero_in_the_papers_form(rewards, monkeypatch):
    reward = rewards("clip-b32")
    monkeypatch.setattr(reward.towers, "image", lambda batch: -reward.towers.text(["A photo depicts x"]).expand(len(batch), -1))
    assert torch.equal(reward.score(IMAGES[:2], "x"), torch.zeros(2))


def test_clip_torchmetrics_is_a_hundred_cosines_behind_the_pil_processor(tiny_folder, rewards):
    folder, _ = tiny.checkpoint("clip-torchmetrics", tiny_folder)
    wanted = logits_of_transformers(folder, tiny.PROMPTS) / math.exp(4.6052) * 100
    torch.testing.assert_close(rewards("clip-torchmetrics").score_matrix(IMAGES, tiny.PROMPTS), wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name, fit", [("clip-h14", "crop"), ("clip-h14-letterbox", "letterbox"), ("clip-dfn-h14", "squash")])
def test_clip_scores_through_open_clip(tiny_folder, rewards, name, fit):
    open_clip = pytest.importorskip("open_clip")
    network = open_clip.CLIP(**tiny.OPEN_CLIP).eval()
    network.load_state_dict(torch.load(tiny.checkpoint(name, tiny_folder)[0] / "open_clip_pytorch_model.bin", weights_only=True))
    reward = rewards(name)
    assert reward.preparation.fit == fit
    pixels = torch.stack([reward.prepare(image) for image in IMAGES])
    image, text = network.encode_image(pixels), network.encode_text(open_clip.get_tokenizer("ViT-H-14")(tiny.PROMPTS))
    torch.testing.assert_close(reward.score(IMAGES, tiny.PROMPTS), F.cosine_similarity(image, text), **EXACT)


def test_published_architectures_exist():
    """What open_clip builds for the ids' names, without weights."""
    open_clip = pytest.importorskip("open_clip")
    from diffalign.rewards.clip import VARIANTS

    names = {variant.architecture for variant in VARIANTS.values()} - {""}
    configs = {name: open_clip.get_model_config(name) for name in names}
    assert configs["ViT-H-14"]["vision_cfg"]["image_size"] == 224 and configs["ViT-H-14-378-quickgelu"]["vision_cfg"]["image_size"] == 378
    assert open_clip.pretrained.get_pretrained_cfg("ViT-H-14-378-quickgelu", "dfn5b")["resize_mode"] == "squash"


def test_prompts_are_encoded_once(rewards, monkeypatch):
    reward, seen = tiny_counter(rewards("hpsv2.1"), monkeypatch)
    reward.score(IMAGES * 2, [tiny.PROMPTS[0], "new here"] * 4, batch_size=4)
    reward.score_matrix(IMAGES, ["new here", tiny.PROMPTS[0]], batch_size=1)
    assert seen == [[tiny.PROMPTS[0], "new here"]]


def tiny_counter(reward, monkeypatch):
    """The reward, and a list of what its text tower is asked from now on."""
    seen, encode = [], reward.towers.text
    monkeypatch.setattr(reward.towers, "text", lambda prompts: seen.append(prompts) or encode(prompts))
    return reward, seen


def test_aesthetic_is_the_layers_in_evaluation_mode(tiny_folder, rewards):
    weights, _ = tiny.checkpoint("aesthetic", tiny_folder)
    image, _ = embeddings(weights.parent, ["x"])
    wanted = layered(torch.load(weights, weights_only=True), image)
    reward = rewards("aesthetic")
    torch.testing.assert_close(reward.score(IMAGES), wanted, **EXACT)
    torch.testing.assert_close(reward.score(IMAGES, tiny.PROMPTS), wanted, **EXACT)
    assert not reward.needs_prompt and reward.state()["published_head"] is False


def layered(state, embedding):
    """The head as its Sequential runs it, dropouts left out."""
    for layer in (0, 2, 4, 6, 7):
        embedding = F.linear(embedding, state[f"layers.{layer}.weight"], state[f"layers.{layer}.bias"])
    return embedding.squeeze(-1)


def test_aesthetic_refuses_heads_it_would_misread(tmp_path, tiny_folder):
    weights, _ = tiny.checkpoint("aesthetic", tiny_folder)
    state = torch.load(weights, weights_only=True)
    places = dict(zip((0, 2, 4, 6, 7), (0, 3, 6, 9, 11), strict=True))  # with a ReLU behind each layer
    relu = {f"layers.{places[int(key.split('.')[1])]}.{key.split('.')[2]}": value for key, value in state.items()}
    torch.save(relu, tmp_path / "ava+logos-l14-reluMSE.pth")
    with pytest.raises(ValueError, match="not the head without activations"):
        load_reward("aesthetic", str(tmp_path / "ava+logos-l14-reluMSE.pth"), clip=str(weights.parent))
    torch.save(state, tmp_path / FILE)
    with pytest.raises(ValueError, match="published name but not the published contents"):
        load_reward("aesthetic", str(tmp_path / FILE), clip=str(weights.parent))
    torch.save(tiny.head(25), tmp_path / "wide.pth")
    with pytest.raises(ValueError, match="takes embeddings of 25 numbers, and the CLIP of .* gives 24"):
        load_reward("aesthetic", str(tmp_path / "wide.pth"), clip=str(weights.parent))


@pytest.mark.skipif(not (DATA / "aesthetic" / FILE).is_file(), reason="the real head is not here")
def test_the_real_aesthetic_head(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    path = DATA / "aesthetic" / FILE
    state = torch.load(path, map_location="cpu", weights_only=True)  # it was saved on a GPU
    weight, bias = affine(state, path)
    assert float(bias) == pytest.approx(5.2366, abs=5e-5) and float(weight.norm()) == pytest.approx(17.9956, abs=5e-5)
    embedding = F.normalize(torch.randn(64, 768, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close((embedding.double() @ weight + bias).float(), layered(state, embedding), rtol=0, atol=1e-5)
    config = CLIPConfig(**tiny.CLIP | {"projection_dim": 768})
    tiny.shaken(CLIPModel(config)).save_pretrained(tmp_path)
    reward = load_reward("aesthetic", str(path), clip=str(tmp_path))
    assert reward.state()["weights"]["sha256"] == SHA256 and reward.state()["published_head"] is True
    with torch.no_grad():
        wanted = layered(state, reward.embed(reward.collate([reward.prepare(image) for image in IMAGES])))
    torch.testing.assert_close(reward.score(IMAGES), wanted, **EXACT)
