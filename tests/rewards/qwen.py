"""A tiny Qwen2-VL with random weights: its folder as transformers writes one, and HPSv3's file in its published names."""

from pathlib import Path

import torch

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WIDTH = 48


def tokenizer():
    """Bytes, a few words, and Qwen2-VL's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*letters, "Ye", "Yes"])}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Y", "e"), ("Ye", "s")]))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    return made


def config(vocabulary: int):
    from transformers import Qwen2VLConfig

    ids = dict(zip(SPECIAL, tokenizer().convert_tokens_to_ids(SPECIAL), strict=True))
    return Qwen2VLConfig(
        text_config=dict(
            vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
        ),
        vision_config=dict(depth=2, embed_dim=32, hidden_size=WIDTH, num_heads=2),
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip


def network(vocabulary: int, seed: int = 0):
    from transformers import Qwen2VLForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Qwen2VLForConditionalGeneration(config(vocabulary)).eval()
        for value in made.parameters():
            torch.nn.init.normal_(value, std=0.15 if value.ndim > 1 else 0.5)
    return made


def write_folder(folder: Path, spare: int = 24) -> Path:
    """Model, processor and chat template, the vocabulary rounded up by ``spare`` rows."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    spoken = tokenizer()
    network(len(spoken) + spare).save_pretrained(folder)
    small = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    images, videos = Qwen2VLImageProcessor(size=small), Qwen2VLVideoProcessor()
    Qwen2VLProcessor(images, spoken, video_processor=videos, chat_template=CHAT).save_pretrained(folder)
    return folder


def write_hpsv3(folder: Path):
    """``HPSv3.safetensors`` under the names of transformers 4.45, with its backbone's config and tokenizer; -> network, head."""
    from safetensors.torch import save_file

    spoken = tokenizer()
    judged = network(len(spoken) + 1, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        sizes = {0: (WIDTH, 1024), 3: (1024, 16), 5: (16, 2)}
        head = {f"{i}.weight": torch.randn(out, inner) * inner**-0.5 for i, (inner, out) in sizes.items()}
        head |= {f"{i}.bias": torch.randn(out) * 0.1 for i, (_, out) in sizes.items()}
    state = {}
    for name, value in judged.state_dict().items():
        old = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        state[old] = value.clone()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state | {f"rm_head.{name}": value for name, value in head.items()}, folder / "HPSv3.safetensors")
    judged.config.save_pretrained(folder)
    spoken.save_pretrained(folder)
    return judged, head
