"""VQAScore and HPSv3 on a tiny Qwen2-VL, against the same computation written out."""

import math

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diffalign.rewards import hpsv3, load_reward
from tests.rewards import qwen, tiny

PROMPTS = ["a red circle", "two cats on a roof, oil painting", "night"]
SIZES = [(64, 64), (120, 60), (50, 90)]


@pytest.fixture(scope="module")
def images():
    return [tiny.image(seed, size) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return qwen.write_folder(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def hps(tmp_path_factory):
    """(folder, network, head, the published kind of Python file)"""
    folder = tmp_path_factory.mktemp("hpsv3")
    network, head = qwen.write_hpsv3(folder)
    (folder / "data_collator_qwen.py").write_text(
        'import no_such_package\nINSTRUCTION = """\nJudge.\nText: {text_prompt}\n\n"""\nINSTRUCTION_debug = "{text_prompt}"\n'
        'prompt_with_special_token = """\nRating: <|Reward|>\nEND\n"""\nprompt_without_special_token = "Rating:"\n'
    )
    return folder, network, head, str(folder / "data_collator_qwen.py")


# VQAScore -------------------------------------------------------------------------------------------------------------------------------


def answered(folder, images, prompts, words='Does this image show "{}"?', eos=False):
    """One image at a time, the answer appended to the tokens, probabilities by hand."""
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    network, processor = Qwen2VLForConditionalGeneration.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    yes, end = processor.tokenizer.convert_tokens_to_ids(["Yes", "<|im_end|>"])
    found = []
    for image, prompt in zip(images, prompts, strict=True):
        text = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{words.format(prompt)}<|im_end|>\n<|im_start|>assistant\n"
        inputs = processor(text=[text], images=[image], return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[yes]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = F.pad(inputs["mm_token_type_ids"], (0, 1))
        with torch.no_grad():
            logits = network(**inputs).logits[0].double()
        odds = (logits - logits.logsumexp(-1, keepdim=True)).exp()
        first = odds[length - 1, yes]
        found.append(float((first * odds[length, end]).sqrt() if eos else first))
    return found


@pytest.mark.parametrize("eos", [False, True])
def test_vqascore_is_the_probability_of_yes(folder, images, eos):
    reward = load_reward("vqascore-vlm", str(folder), eos=eos)
    expected = answered(folder, images, PROMPTS, eos=eos)
    assert reward.score(images, PROMPTS).tolist() == pytest.approx(expected, rel=1e-4)
    assert len({f"{score:.2e}" for score in expected}) == 3
    order = [2, 0, 1]
    turned = reward.score([images[i] for i in order], [PROMPTS[i] for i in order], batch_size=1)
    assert turned.tolist() == pytest.approx([expected[i] for i in order], rel=1e-4)


def test_vqascore_asks_what_it_is_told_to(folder, images):
    reward = load_reward("vqascore-vlm", str(folder), template='Is there "{prompt}"? {x}', answer="Yes")
    assert float(reward.score(images[:1], "b")) == pytest.approx(answered(folder, images[:1], ["b"], 'Is there "{}"? {{x}}')[0], rel=1e-4)
    state = reward.state()
    assert state["question"] == 'Is there "{prompt}"? {x}' and list(state["weights"]) == ["model.safetensors"]
    no = load_reward("vqascore-vlm", str(folder), answer="No")
    assert float(no.score(images[:1], "b")) != float(load_reward("vqascore-vlm", str(folder)).score(images[:1], "b"))


def test_vqascore_refuses_what_it_cannot_use(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*Qwen2-VL"):
        load_reward("vqascore-vlm", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="config is read from the folder"):
        load_reward("vqascore-vlm", str(folder), config={})
    qwen.write_folder(tmp_path, spare=2000)
    with pytest.raises(ValueError, match="entries and its network was built for"):
        load_reward("vqascore-vlm", str(tmp_path))


# HPSv3 ----------------------------------------------------------------------------------------------------------------------------------


def judged(hps, images, prompts):
    """transformers' own image processor and forward, one image at a time, the head as matrix products."""
    from transformers import AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    folder, network, head, _ = hps
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 200_704, "longest_edge": 200_704})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|Reward|>"], special_tokens=True)
    found = []
    for image, prompt in zip(images, prompts, strict=True):
        seen = processor(images=[image], return_tensors="pt")
        tokens = int(seen["image_grid_thw"].prod()) // 4
        text = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * tokens
            + f"<|vision_end|>\nJudge.\nText: {prompt}\n\n\nRating: <|Reward|>\nEND\n<|im_end|>\n<|im_start|>assistant\n"
        )  # fmt: skip
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            places = torch.arange(ids.shape[1]).expand(3, 1, -1)
            types = (ids == network.config.image_token_id).long()
            hidden = network.model(input_ids=ids, position_ids=places, mm_token_type_ids=types, **seen).last_hidden_state
        x = hidden[0, ids[0].tolist().index(len(tokenizer) - 1)]
        x = F.relu(head["0.weight"] @ x + head["0.bias"])
        x = F.relu(head["3.weight"] @ x + head["3.bias"])
        found.append(float((head["5.weight"] @ x + head["5.bias"])[0]))
    return found


def test_hpsv3_is_the_written_out_computation(hps, images):
    folder, _, _, words = hps
    reward = load_reward("hpsv3", str(folder), template=words)
    expected = judged(hps, images, PROMPTS)
    assert reward.score(images, PROMPTS).tolist() == pytest.approx(expected, abs=1e-4)
    assert len({round(score, 2) for score in expected}) == 3
    order = [2, 0, 1]
    turned = reward.score([images[i] for i in order], [PROMPTS[i] for i in order], batch_size=1)
    assert turned.tolist() == pytest.approx([expected[i] for i in order], abs=1e-4)
    assert reward.state()["weights"]["file"] == "HPSv3.safetensors" and "{prompt}" in reward.state()["question"]


def test_hpsv3_by_its_newer_names_and_a_config(hps, images, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, network, _, words = hps
    new = {}
    for name, value in load_file(folder / "HPSv3.safetensors").items():
        if name.startswith(("visual.", "model.")):
            name = f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1)
        new[name] = value
    save_file(new, tmp_path / "HPSv3.safetensors")
    reward = load_reward("hpsv3", str(tmp_path), template=words, backbone=str(folder), config=network.config)
    old = load_reward("hpsv3", str(folder), template=words)
    assert reward.score(images[:1], "x").tolist() == old.score(images[:1], "x").tolist()


def test_the_patches_are_transformers(images):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 200_704, "longest_edge": 200_704})
    for size in [(64, 64), (448, 448), (1000, 333), (333, 1000), (10, 1900), (450, 446)]:
        image = tiny.image(0, size)
        wanted = processor(images=[image], return_tensors="pt")
        height, width = hpsv3.sides(size[1], size[0], 28)
        assert wanted["image_grid_thw"].tolist() == [[1, height // 14, width // 14]], size
        assert height % 28 == width % 28 == 0 and (height * width == 200_704 or abs(math.log(height * width / 200_704)) < 0.7)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        pixels = hpsv3.normalise(hpsv3.as_tensor(resized))
        assert torch.allclose(hpsv3.patchified(pixels, 14, 2, 2), wanted["pixel_values"], atol=1e-5), size


def test_long_prompts_are_read_whole_or_refused(hps, folder, images):
    """The tiny networks have 4,096 positions; the last word of a prompt of hundreds still counts."""
    message = r"with the prompt '(red ){10}\.\.\.' have \d+ tokens, and the network was built for 4096: shorten"
    for reward in (load_reward("hpsv3", str(hps[0]), template=hps[3]), load_reward("vqascore-vlm", str(folder))):
        long = "red " * 300
        assert float(reward.score(images[:1], long + "cat")) != float(reward.score(images[:1], long + "dog"))
        with pytest.raises(ValueError, match=message):
            reward.score(images[:1], long * 10)


def test_hpsv3_refuses_what_it_cannot_use(hps, images, tmp_path):
    folder, _, _, words = hps
    with pytest.raises(ValueError, match="template=PATH to hpsv3/dataset/data_collator_qwen.py"):
        load_reward("hpsv3", str(folder))
    with pytest.raises(ValueError, match="must hold {prompt}, and <|Reward|> once".replace("|", r"\|")):
        load_reward("hpsv3", str(folder), template="Judge {prompt}")
    (tmp_path / "other.py").write_text("x = 1")
    with pytest.raises(ValueError, match="does not assign INSTRUCTION"):
        load_reward("hpsv3", str(folder), template=str(tmp_path / "other.py"))
    with pytest.raises(FileNotFoundError, match="HPSv3.safetensors of MizzenAI/HPSv3"):
        load_reward("hpsv3", str(tmp_path), template=words)
    reward = load_reward("hpsv3", str(folder), template="Judge {prompt} <|Reward|>")
    with pytest.raises(ValueError, match=r"<\|Reward\|> is there 2 times and not 1: is it in the prompt"):
        reward.score(images[:1], "a <|Reward|> hunter")
    with pytest.raises(ValueError, match="wider than 200 to 1"):
        reward.score([tiny.image(0, (402, 2))], "x")
