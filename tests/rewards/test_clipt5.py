"""VQAScore by CLIP-FlanT5, tiny, in the published checkpoint's layout, against the same computation written out."""

import json

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diffalign.rewards import clipt5, load_reward, preprocess, templates
from tests.rewards import tiny

PROMPTS = ["a red circle", "two cats on a roof, oil painting, and far more words than the others have", "night"]
WIDTH, WIDE = 32, 24
VISION = dict(hidden_size=WIDE, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14)


def write_tokenizer(folder):
    """Letters and "Yes", each text ended by </s>, as T5's."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    entries = ["<pad>", "</s>", "<unk>", "Yes", *map(chr, range(32, 127))]
    bare = Tokenizer(models.WordLevel({entry: i for i, entry in enumerate(entries)}, unk_token="<unk>"))
    bare.normalizer = normalizers.Replace("\n", " ")
    bare.pre_tokenizer = pre_tokenizers.Split(Regex("Yes|."), "isolated")
    bare.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    made.save_pretrained(folder)
    return made


@pytest.fixture(scope="module", params=["one file", "shards"])
def checkpoint(request, tmp_path_factory):
    """(folder, vision folder): T5 and projector in one safetensors file, or in two torch shards with the image tower."""
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel, T5Config, T5ForConditionalGeneration

    folder, vision = tmp_path_factory.mktemp("t5"), tmp_path_factory.mktemp("clip")
    spoken = write_tokenizer(folder)
    config = T5Config(
        vocab_size=len(spoken) + 28, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        t5 = T5ForConditionalGeneration(config)
        clip = CLIPModel(CLIPConfig(vision_config=VISION, text_config=tiny.CLIP["text_config"], projection_dim=16))
        for network in (t5, clip):
            for value in network.parameters():
                torch.nn.init.normal_(value, std=0.3)
        projector = {"0.weight": torch.randn(WIDTH, WIDE), "0.bias": torch.randn(WIDTH), "2.weight": torch.randn(WIDTH, WIDTH) * 0.2}
        projector["2.bias"] = torch.randn(WIDTH)
    state = {key: value.clone() for key, value in t5.state_dict().items() if not key.endswith("coder.embed_tokens.weight")}
    state |= {f"mm_projector.{key}": value for key, value in projector.items()}
    clip.save_pretrained(vision)
    published = {"model_type": "clip_t5", "mm_vision_select_layer": -2, "mm_hidden_size": WIDE}
    (folder / "config.json").write_text(json.dumps(config.to_dict() | published))
    if request.param == "one file":
        save_file(state, folder / "model.safetensors")
    else:  # here the image tower differs from the folder's: the checkpoint's own counts
        own = {key: value * 1.5 for key, value in clip.vision_model.state_dict().items()}
        tower = {f"vision_tower.vision_tower.vision_model.{key}": value for key, value in own.items()}
        names = {"pytorch_model-00001-of-00002.bin": state | {"embed_tokens.weight": state["shared.weight"]}}
        names["pytorch_model-00002-of-00002.bin"] = tower
        for name, part in names.items():
            torch.save(part, folder / name)
        index = {key: name for name, part in names.items() for key in part}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
        clip.vision_model.load_state_dict(own)
    return folder, vision, t5.eval(), clip.vision_model.eval(), projector, spoken


def expected(checkpoint, images, prompts, question='Does this figure show "{}"? Please answer yes or no.'):
    """One image at a time: P(Yes) and P(</s> | Yes) by two decoder passes, without labels."""
    _, _, t5, vision, projector, spoken = checkpoint
    found = []
    for image, prompt in zip(images, prompts, strict=True):
        side = max(image.size)
        square = Image.new("RGB", (side, side), (122, 116, 104))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        pixels = preprocess.normalise(tiny.pixels(square.resize((28, 28), Image.Resampling.BICUBIC)))[None]
        with torch.no_grad():
            seen = vision(pixels, output_hidden_states=True).hidden_states[2][0, 1:]  # of 3 layers, what the second gives
            seen = F.gelu(seen @ projector["0.weight"].T + projector["0.bias"]) @ projector["2.weight"].T + projector["2.bias"]
            texts = [f"{templates.SYSTEM} USER: ", f"\n{question.format(prompt)} ASSISTANT: "]
            before, after = (t5.shared(torch.tensor(spoken(text)["input_ids"])) for text in texts)
            read = torch.cat([before, seen, after])[None]
            logits = t5(inputs_embeds=read, decoder_input_ids=torch.tensor([[0, 3]])).logits[0]  # start, Yes
        odds = logits.softmax(-1)
        found.append(float((odds[0, 3] * odds[1, 1]).sqrt()))
    return found


@pytest.fixture(scope="module")
def images():
    return [tiny.image(seed, size) for seed, size in enumerate([(40, 40), (60, 30), (20, 50)])]


def test_vqascore_is_the_geometric_mean_of_yes_and_the_end(checkpoint, images):
    folder, vision = checkpoint[:2]
    reward = load_reward("vqascore", str(folder), vision=str(vision))
    wanted = expected(checkpoint, images, PROMPTS)
    assert reward.score(images, PROMPTS).tolist() == pytest.approx(wanted, rel=1e-4)
    assert len({f"{score:.2e}" for score in wanted}) == 3
    order = [2, 0, 1]
    turned = reward.score([images[i] for i in order], [PROMPTS[i] for i in order], batch_size=1)
    assert turned.tolist() == pytest.approx([wanted[i] for i in order], rel=1e-4)
    asked = load_reward("vqascore-xl", str(folder), vision=str(vision), template="Is it {prompt}?")
    assert asked.score(images[:1], "x").tolist() == pytest.approx(expected(checkpoint, images[:1], ["x"], "Is it {}?"), rel=1e-4)


def test_the_state_names_every_file(checkpoint):
    folder, vision = checkpoint[:2]
    state = load_reward("vqascore", str(folder), vision=str(vision)).state()
    files = [facts["file"] for facts in state["weights"]]
    if len(files) == 1:
        assert files == ["model.safetensors"] and state["image_tower"]["file"] == "model.safetensors"
    else:
        assert files == ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"] and "image_tower" not in state
    assert state["layer"] == -2 and state["answer"] == "Yes"


def test_images_are_padded_with_the_mean_colour():
    square = clipt5.squared(Image.new("RGB", (10, 4), "white"))
    assert square.size == (10, 10)
    assert [square.getpixel((0, y)) for y in (0, 2, 3, 6, 7)] == [(122, 116, 104)] * 2 + [(255,) * 3] * 2 + [(122, 116, 104)]
    assert clipt5.squared(Image.new("RGB", (5, 5), "red")).getpixel((0, 0)) == (255, 0, 0)


def test_mistakes_are_named(checkpoint, tmp_path):
    from safetensors.torch import save_file

    folder, vision = checkpoint[:2]
    with pytest.raises(FileNotFoundError, match="zhiqiulin/clip-flant5-xxl"):
        load_reward("vqascore", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="clip-vit-large-patch14-336.*vision=PATH"):
        load_reward("vqascore", str(folder), vision=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is not CLIP-FlanT5"):
        load_reward("vqascore", str(tmp_path), vision=str(vision))
