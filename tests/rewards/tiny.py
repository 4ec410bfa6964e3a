"""Tiny checkpoints of every image reward in the published file format, random weights: load(name, folder, **options) -> Reward.

The vocabularies are whole (CLIP's from open_clip's package, BLIP's made of letters and numbers), everything else is a few numbers wide.
Deviations are large enough for scores to differ from image to image and from prompt to prompt.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffalign.rewards import load_reward

SIDE = 48  # of the networks' input
PROMPTS = ["a red circle", "two cats on a roof, oil painting", "an astronaut riding a horse", "night"]
CLIP = dict(
    projection_dim=24,
    text_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, hidden_act="gelu", eos_token_id=2),
    vision_config=dict(
        hidden_size=40, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, hidden_act="gelu", image_size=SIDE, patch_size=16,
    ),
)  # fmt: skip
OPEN_CLIP = dict(
    embed_dim=24,
    vision_cfg=dict(image_size=SIDE, layers=2, width=40, head_width=10, patch_size=16),
    text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=4, layers=2),
)
BLIP = dict(
    vision_config=dict(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=16,
        layer_norm_eps=1e-6,
    ),
    text_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=30524),
)  # fmt: skip
CROSS = dict(layers=2, width=24, heads=3, head_width=8, inner=96)
FILES = {"hpsv2": "HPS_v2_compressed.pt", "hpsv2.1": "HPS_v2.1_compressed.pt", "hpsv2.1-legacy": "HPS_v2.1_compressed.pt"}
NAMES = ["pickscore", "hpsv2.1", "clip-l14", "clip-b32", "clip-dfn-h14", "imagereward", "aesthetic", "mps"]  # one of every code path


def load(name: str, folder: Path, **options):
    """The reward ``name`` with tiny weights, which are written to ``folder`` first unless they are there."""
    weights, config = checkpoint(name, Path(folder))
    return load_reward(name, str(weights), **{"config": config, **options})


def checkpoint(name: str, folder: Path):
    """(what ``weights=`` is given, what ``config=`` is given) of the tiny reward."""
    folder = Path(folder) / {"hpsv2.1-legacy": "hpsv2.1"}.get(name, name)
    writer, config = {
        "imagereward": (write_imagereward, BLIP), "aesthetic": (write_aesthetic, None), "mps": (write_mps, CLIP),
        **dict.fromkeys(["pickscore", "clip-l14", "clip-b32", "clip-torchmetrics"], (write_transformers, None)),
        **dict.fromkeys(["clip-h14", "clip-h14-letterbox", "clip-dfn-h14"], (write_open_clip, OPEN_CLIP)),
        **dict.fromkeys(FILES, (write_hps, OPEN_CLIP)),
    }[name]  # fmt: skip
    if not folder.exists():
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(sum(map(ord, name)))
            writer(name, folder)
    return folder / "head.pth" if name == "aesthetic" else folder, config


def write_transformers(name, folder):
    clip_network().save_pretrained(folder)
    write_clip_tokenizer(folder)


def write_hps(name, folder):
    folder.mkdir(parents=True)
    torch.save({"state_dict": open_clip_network().state_dict()}, folder / FILES[name])


def write_open_clip(name, folder):
    folder.mkdir(parents=True)
    torch.save(open_clip_network().state_dict(), folder / "open_clip_pytorch_model.bin")


def write_aesthetic(name, folder):
    write_transformers(name, folder)
    torch.save(head(CLIP["projection_dim"]), folder / "head.pth")


def write_imagereward(name, folder):
    """The names and shapes of ``ImageReward.pt``, as its BLIP_Pretrain and MLP have them."""
    vision, text = BLIP["vision_config"], BLIP["text_config"]
    wide, narrow, inner, patches = vision["hidden_size"], text["hidden_size"], text["intermediate_size"], (SIDE // 16) ** 2
    state = (
        {"cls_token": (1, 1, wide), "pos_embed": (1, patches + 1, wide)} | linear("patch_embed.proj", wide, 3, 16, 16) | norm("norm", wide)
    )
    for i in range(vision["num_hidden_layers"]):
        block = norm("norm1", wide) | norm("norm2", wide) | linear("attn.qkv", 3 * wide, wide) | linear("attn.proj", wide, wide)
        block |= linear("mlp.fc1", 2 * wide, wide) | linear("mlp.fc2", wide, 2 * wide)
        state |= {f"blocks.{i}.{key}": shape for key, shape in block.items()}
    state = {f"blip.visual_encoder.{key}": shape for key, shape in state.items()}
    words = {"embeddings.word_embeddings.weight": (30524, narrow), "embeddings.position_embeddings.weight": (512, narrow)}
    words |= norm("embeddings.LayerNorm", narrow)
    for i in range(text["num_hidden_layers"]):
        layer = linear("intermediate.dense", inner, narrow) | linear("output.dense", narrow, inner) | norm("output.LayerNorm", narrow)
        for kind, context in (("attention", narrow), ("crossattention", wide)):
            layer |= linear(f"{kind}.self.query", narrow, narrow) | linear(f"{kind}.self.key", narrow, context)
            layer |= linear(f"{kind}.self.value", narrow, context) | linear(f"{kind}.output.dense", narrow, narrow)
            layer |= norm(f"{kind}.output.LayerNorm", narrow)
        words |= {f"encoder.layer.{i}.{key}": shape for key, shape in layer.items()}
    state |= {f"blip.text_encoder.{key}": shape for key, shape in words.items()}
    state |= linear("blip.vision_proj", 16, wide) | linear("blip.text_proj", 16, narrow)
    folder.mkdir(parents=True)
    state = filled(state) | {f"mlp.{key}": value for key, value in head(narrow).items()}
    torch.save(state | {"blip.text_encoder.embeddings.position_ids": torch.arange(512)[None]}, folder / "ImageReward.pt")
    write_bert_tokenizer(folder)


def write_mps(name, folder):
    from safetensors.torch import save_file

    width, heads, narrow, inner = (CROSS[key] for key in ("width", "heads", "head_width", "inner"))
    state = {}
    for i in range(CROSS["layers"]):
        cross = {
            "norm.weight": (width,),
            "norm.bias": (width,),
            "to_q.weight": (heads * narrow, width),
            "to_kv.weight": (2 * narrow, width),
        }
        cross |= {"to_out.weight": (width, heads * narrow), "ff.0.weight": (2 * inner, width), "ff.2.weight": (width, inner)}
        fused = heads * narrow + 2 * narrow + 2 * inner
        block = {"norm.weight": (width,), "norm.bias": (width,), "fused_attn_ff_proj.weight": (fused, width)}
        block |= {"attn_out.weight": (width, heads * narrow), "ff_out.1.weight": (width, inner)}
        state |= {f"layers.{i}.{j}.fn.{key}": shape for j, part in enumerate((cross, block)) for key, shape in part.items()}
    state = filled(state)
    for i in range(CROSS["layers"]):
        state[f"layers.{i}.0.fn.norm.bias"] = state[f"layers.{i}.1.fn.norm.bias"] = torch.zeros(width)
        state[f"layers.{i}.1.fn.rotary_emb.inv_freq"] = 1.0 / (10000 ** (torch.arange(0, narrow, 2).float() / narrow))
    state = {f"mps.cross_model.{key}": value.clone() for key, value in state.items()}
    folder.mkdir(parents=True)
    save_file(state | {f"mps.model.{key}": value for key, value in clip_network().state_dict().items()}, folder / "model.safetensors")
    write_clip_tokenizer(folder)


def clip_network():
    from transformers import CLIPConfig, CLIPModel

    network = shaken(CLIPModel(CLIPConfig(**CLIP)))
    return together(network, network.vision_model.post_layernorm, network.visual_projection.weight.T,
                    network.text_model.final_layer_norm, network.text_projection.weight.T)  # fmt: skip


def open_clip_network():
    network = shaken(pytest.importorskip("open_clip").CLIP(**OPEN_CLIP))
    return together(network, network.visual.ln_post, network.visual.proj, network.ln_final, network.text_projection)


def shaken(network):
    """Every weight random and of a size that keeps differences alive through two layers; the logit scale that of trained models."""
    state = {key: random(key, value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(state | {"logit_scale": torch.tensor(4.6052)})
    return network.eval()


@torch.no_grad()
def together(network, image_norm, image_projection, text_norm, text_projection):
    """Both towers' features moved in one direction, so that cosines are above 0, as trained models' are."""
    direction = torch.randn(image_projection.shape[1]) * 2
    for layer, projection in ((image_norm, image_projection), (text_norm, text_projection)):
        layer.bias.copy_(direction @ torch.linalg.pinv(projection))
    return network


def filled(shapes):
    return {key: random(key, shape) for key, shape in shapes.items()}


def random(key, shape):
    if len(shape) < 2:
        return torch.randn(shape) * 0.1 + (1.0 if "norm" in key.lower() or ".ln_" in key or "ln_" in key else 0.0) * key.endswith("weight")
    return torch.randn(shape) * (0.5 if "embed" in key or "token" in key else (shape[-1] if len(shape) == 2 else shape[1:].numel()) ** -0.5)


def head(width):
    """Weights of the five linear layers under the names they have in a Sequential with dropouts between."""
    sizes = (width, 1024, 128, 64, 16, 1)
    state = {}
    for layer, (inputs, outputs) in zip((0, 2, 4, 6, 7), zip(sizes, sizes[1:], strict=False), strict=True):
        state |= {f"layers.{layer}.weight": torch.randn(outputs, inputs) * inputs**-0.5, f"layers.{layer}.bias": torch.randn(outputs) * 0.1}
    return state


def linear(name, outputs, *inputs):
    return {f"{name}.weight": torch.Size((outputs, *inputs)), f"{name}.bias": torch.Size((outputs,))}


def norm(name, width):
    return {f"{name}.weight": torch.Size((width,)), f"{name}.bias": torch.Size((width,))}


def write_clip_tokenizer(folder: Path) -> Path:
    """CLIP's ``vocab.json`` and ``merges.txt``, from the vocabulary in open_clip's package."""
    open_clip = pytest.importorskip("open_clip")
    tokenizer = open_clip.SimpleTokenizer()
    vocabulary = {token: i for token, i in tokenizer.encoder.items() if i < 49406} | {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = [" ".join(pair) for pair in tokenizer.bpe_ranks]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return folder


def write_bert_tokenizer(folder: Path) -> Path:
    """A word-piece vocabulary of 30,522 entries with bert-base-uncased's special tokens at their places: letters, their tails, numbers."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.!?'\"-")
    entries = [f"[unused{i}]" for i in range(30522)]
    for i, token in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}.items():
        entries[i] = token
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    entries[1000 : 1000 + len(pieces)] = pieces
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n")
    return folder


def image(seed: int, size=(64, 64), mode: str = "RGB") -> Image.Image:
    """A picture with edges, a gradient and noise."""
    generator = torch.Generator().manual_seed(seed)
    width, height = size
    x, y = torch.linspace(0, 1, width)[None], torch.linspace(0, 1, height)[:, None]
    waves = torch.rand(3, 3, generator=generator) * 12
    planes = [(torch.sin(a * x + b * y + c) > 0).float() * 0.6 + 0.3 * x * y for a, b, c in waves]
    pixels = (torch.stack(planes) + 0.1 * torch.rand(3, height, width, generator=generator)).clamp(0, 1)
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy()).convert(mode)


def images(number: int, **options) -> list[Image.Image]:
    return [image(seed, **options) for seed in range(number)]


def pixels(picture: Image.Image) -> torch.Tensor:
    """An RGB image -> (3, H, W) float32 in [0, 1]."""
    width, height = picture.size
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1) / 255
