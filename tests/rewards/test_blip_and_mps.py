"""ImageReward and MPS against written-out forwards from the published names, and against other people's ports where these install."""

import pytest
import torch
from torch.nn import functional as F

from diffalign.rewards import load_reward, mps
from diffalign.rewards.crossmodel import CrossModel
from tests.rewards import oracles, tiny

EXACT = dict(rtol=0, atol=1e-5)
IMAGES = tiny.images(4)


@pytest.fixture(scope="module")
def blip(tiny_folder):
    return torch.load(tiny.checkpoint("imagereward", tiny_folder)[0] / "ImageReward.pt", weights_only=True)


@pytest.fixture(scope="module")
def published_mps(tiny_folder):
    from safetensors.torch import load_file

    return load_file(tiny.checkpoint("mps", tiny_folder)[0] / "model.safetensors")


@torch.no_grad()
def test_imagereward_is_its_forward_written_out(blip, rewards):
    reward = rewards("imagereward")
    tokens = reward.tokenizer(tiny.PROMPTS)
    pixels = torch.stack([reward.prepare(image) for image in IMAGES])
    assert tokens["input_ids"].shape == (4, 35) and (tokens["input_ids"][:, 0] == 101).all()
    wanted = oracles.imagereward(blip, pixels, tokens["input_ids"], tokens["attention_mask"], heads=4)
    torch.testing.assert_close(reward.score(IMAGES, tiny.PROMPTS), wanted, **EXACT)
    assert wanted.std() > 0.01


@torch.no_grad()
def test_imagereward_is_imscores_port(blip, rewards):
    """imscore 0.0.11's vision transformer and BERT, fed with the same weights, pixels and ids."""
    bert, vit = pytest.importorskip("imscore.imreward.bert"), pytest.importorskip("imscore.imreward.vit")
    from transformers import BertConfig

    vision, text, reward = tiny.BLIP["vision_config"], tiny.BLIP["text_config"], rewards("imagereward")
    eye = vit.VisionTransformer(img_size=tiny.SIDE, patch_size=16, embed_dim=48, depth=2, num_heads=4, mlp_ratio=2)
    eye.load_state_dict({key.removeprefix("blip.visual_encoder."): value for key, value in blip.items() if "visual" in key})
    config = BertConfig(**text, add_cross_attention=True, layer_norm_eps=1e-12)
    config.encoder_width = vision["hidden_size"]
    reader = bert.BertModel(config=config)
    left = reader.load_state_dict(
        {key.removeprefix("blip.text_encoder."): value for key, value in blip.items() if "text_encoder" in key}, strict=False
    )
    assert not left.missing_keys
    tokens, seen = reward.tokenizer(tiny.PROMPTS), eye.eval()(torch.stack([reward.prepare(image) for image in IMAGES]))
    found = reader.eval()(
        tokens["input_ids"], attention_mask=tokens["attention_mask"], encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.bool),
    )[:, 0]  # fmt: skip
    for layer in (0, 2, 4, 6, 7):
        found = F.linear(found, blip[f"mlp.layers.{layer}.weight"], blip[f"mlp.layers.{layer}.bias"])
    wanted = (found.squeeze(-1) - 0.16717362830052426) / 1.0333394966054072
    torch.testing.assert_close(reward.score(IMAGES, tiny.PROMPTS), wanted, **EXACT)


def test_imagereward_reads_35_tokens_and_no_padding(rewards):
    reward, image = rewards("imagereward"), IMAGES[:1]
    same = reward.score(image * 2, ["a b c " * 15, "a b c " * 15 + "z"])
    torch.testing.assert_close(same[0], same[1], **EXACT)
    tokens = reward.tokenizer(["a cat"])
    assert tokens["attention_mask"].sum() == 6  # [CLS] a c ##a ##t [SEP]


def test_imagereward_loads_nothing_but_its_own_keys(blip, tmp_path):
    torch.save({key: value for key, value in blip.items() if "crossattention.self.key" not in key}, tmp_path / "short.pt")
    with pytest.raises(ValueError, match=r"BlipTextModel: 4 missing \(encoder.layer.0.crossattention.self.key.bias"):
        load_reward("imagereward", str(tmp_path / "short.pt"), config=tiny.BLIP)
    torch.save(blip | {"itm_head.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not the checkpoint that is wanted: it holds 'itm_head.weight'"):
        load_reward("imagereward", str(tmp_path / "other.pt"), config=tiny.BLIP)


@torch.no_grad()
def mps_of(published, reward, images, prompts, threshold):
    """The score from the published names: transformers' CLIP for the towers, the rest written out."""
    from transformers import CLIPConfig, CLIPModel

    network = CLIPModel(CLIPConfig(**tiny.CLIP)).eval()
    network.load_state_dict({key.removeprefix("mps.model."): value for key, value in published.items() if key.startswith("mps.model.")})
    cross = {key.removeprefix("mps.cross_model."): value for key, value in published.items() if "cross_model" in key}

    def said(text):
        ids = reward.tokenizer.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")["input_ids"]
        hidden = network.text_model(input_ids=ids).last_hidden_state
        end = ids.eq(49407).int().argmax(dim=1)
        return hidden @ network.text_projection.weight.T, (hidden[range(len(text)), end]) @ network.text_projection.weight.T

    tokens, pooled = said(prompts)
    related = torch.einsum("bid,jd->bji", tokens, said([mps.OVERALL])[0][0]).amax(dim=1)
    mask = torch.where(related / related.amax(dim=1, keepdim=True) > threshold, 0.0, float("-inf"))
    pixels = torch.stack([reward.prepare(image) for image in images])
    seen = network.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[-1] @ network.visual_projection.weight.T
    found = oracles.cross_model(cross, seen, tokens, mask, tiny.CROSS["layers"], tiny.CROSS["heads"], tiny.CROSS["head_width"])[:, 0]
    return network.logit_scale.exp() * F.cosine_similarity(pooled, found), mask


@pytest.mark.parametrize("threshold", [0.3, 0.01, 0.9])
def test_mps_is_its_forward_written_out(published_mps, rewards, threshold):
    reward = rewards("mps", threshold=threshold)
    wanted, mask = mps_of(published_mps, reward, IMAGES, tiny.PROMPTS, threshold)
    torch.testing.assert_close(reward.score(IMAGES, tiny.PROMPTS), wanted, rtol=1e-6, atol=1e-5)
    if threshold == 0.9:
        assert mask.isinf().any() and not mask.isinf().all(dim=1).any()


@torch.no_grad()
def test_the_cross_model_is_imscores(published_mps):
    theirs = pytest.importorskip("imscore.mps.cross")
    state = {key.removeprefix("mps.cross_model."): value for key, value in published_mps.items() if "cross_model" in key}
    reference = theirs.CrossModel(dim=24, layer_num=2, dim_head=8, heads=3, ff_mult=4)
    ours = CrossModel(**tiny.CROSS)
    for network in (reference, ours):
        network.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 10, 24, generator=generator), torch.randn(2, 7, 24, generator=generator)
    mask = torch.zeros(2, 7)
    mask[0, 3:], mask[1, 0] = float("-inf"), float("-inf")
    wanted = reference(x, context, mask[:, None].expand(-1, 10, -1))
    torch.testing.assert_close(ours(x, context, mask), wanted, **EXACT)


def test_mps_looks_at_padding_and_at_nothing_but_its_own_prompt(rewards):
    """The model class divides by the largest similarity of the whole batch; here company does not matter. Padding counts as tokens."""
    reward = rewards("mps", threshold=0.9)
    alone = torch.cat([reward.score([image], prompt) for image, prompt in zip(IMAGES, tiny.PROMPTS, strict=True)])
    torch.testing.assert_close(reward.score(IMAGES, tiny.PROMPTS), alone, rtol=1e-6, atol=1e-5)
    assert reward.tokenizer(["a"])["input_ids"].shape == (1, 77)
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match="threshold is a share of the largest similarity"):
            rewards("mps", threshold=threshold)


def test_the_condition_decides_what_is_looked_at(rewards):
    assert (rewards("mps", threshold=0.9, condition="hands").score(IMAGES, tiny.PROMPTS) - rewards("mps", threshold=0.9).score(
        IMAGES, tiny.PROMPTS)).abs().max() > 1e-4  # fmt: skip
