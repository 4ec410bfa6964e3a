"""Second computations of the image rewards, from the published checkpoints' own names and written without our modules."""

import math

import torch
from torch.nn import functional as F


def clip_of(state, config):
    """open_clip's state dict as transformers' ``CLIPModel`` (spec A.2): in_proj cut in three, the projections turned round."""
    from transformers import CLIPConfig, CLIPModel

    vision, text = config["vision_cfg"], config["text_cfg"]
    network = CLIPModel(CLIPConfig(
        projection_dim=config["embed_dim"],
        text_config=dict(hidden_size=text["width"], intermediate_size=4 * text["width"], num_hidden_layers=text["layers"],
                         num_attention_heads=text["heads"], hidden_act="gelu", eos_token_id=49407),
        vision_config=dict(hidden_size=vision["width"], intermediate_size=4 * vision["width"], num_hidden_layers=vision["layers"],
                           num_attention_heads=vision["width"] // vision["head_width"], hidden_act="gelu",
                           image_size=vision["image_size"], patch_size=vision["patch_size"]),
    ))  # fmt: skip
    single = {
        "logit_scale": "logit_scale", "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    }  # fmt: skip
    norms = {"ln_final": "text_model.final_layer_norm"}
    norms |= {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    inside = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    inside |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    converted = {"text_projection.weight": state["text_projection"].T, "visual_projection.weight": state["visual.proj"].T}
    converted |= {new: state[old] for old, new in single.items()}
    converted |= {f"{new}.{part}": state[f"{old}.{part}"] for old, new in norms.items() for part in ("weight", "bias")}
    for theirs, ours, layers in (("", "text_model", text["layers"]), ("visual.", "vision_model", vision["layers"])):
        for i in range(layers):
            old, new = f"{theirs}transformer.resblocks.{i}", f"{ours}.encoder.layers.{i}"
            for part in ("weight", "bias"):
                converted |= {f"{new}.{b}.{part}": state[f"{old}.{a}.{part}"] for a, b in inside.items()}
                for name, piece in zip("qkv", state[f"{old}.attn.in_proj_{part}"].chunk(3), strict=True):
                    converted[f"{new}.self_attn.{name}_proj.{part}"] = piece
    network.load_state_dict({key: value.clone() for key, value in converted.items()})
    return network.eval()


def imagereward(state, pixels, ids, attention, heads):
    """(N,): BLIP's towers from the published names, written out; pixels (N, 3, S, S) normalised, ids and attention (N, L)."""

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name, eps):
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred / (centred.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attend(queries, keys, values, mask=None):
        queries, keys, values = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
        logits = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        if mask is not None:
            logits = logits.masked_fill(mask[:, None, None] == 0, float("-inf"))
        return (logits.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)

    eye, word = "blip.visual_encoder", "blip.text_encoder"
    patch = state[f"{eye}.patch_embed.proj.weight"]
    x = F.conv2d(pixels, patch, state[f"{eye}.patch_embed.proj.bias"], stride=patch.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{eye}.cls_token"].expand(len(x), -1, -1), x], dim=1) + state[f"{eye}.pos_embed"]
    for i in range(2):
        block = f"{eye}.blocks.{i}"
        x = x + linear(attend(*linear(norm(x, f"{block}.norm1", 1e-6), f"{block}.attn.qkv").chunk(3, dim=-1)), f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    x = norm(x, f"{eye}.norm", 1e-6)
    y = state[f"{word}.embeddings.word_embeddings.weight"][ids] + state[f"{word}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    y = norm(y, f"{word}.embeddings.LayerNorm", 1e-12)
    for i in range(2):
        for kind, source, mask in (("attention", None, attention), ("crossattention", x, None)):
            layer = f"{word}.encoder.layer.{i}.{kind}"
            context = y if source is None else source
            keys, values = linear(context, f"{layer}.self.key"), linear(context, f"{layer}.self.value")
            seen = attend(linear(y, f"{layer}.self.query"), keys, values, mask)
            y = norm(linear(seen, f"{layer}.output.dense") + y, f"{layer}.output.LayerNorm", 1e-12)
        layer = f"{word}.encoder.layer.{i}"
        inner = linear(F.gelu(linear(y, f"{layer}.intermediate.dense")), f"{layer}.output.dense")
        y = norm(inner + y, f"{layer}.output.LayerNorm", 1e-12)
    found = y[:, 0]
    for i in (0, 2, 4, 6, 7):
        found = linear(found, f"mlp.layers.{i}")
    return (found.squeeze(-1) - 0.16717362830052426) / 1.0333394966054072


def cross_model(state, x, context, mask, layers, heads, head_width):
    """MPS's cross model from the published names, head by head; mask (N, T) is added to the logits."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:]) * state[f"{name}.weight"]

    def swiglu(x):
        value, gate = x.chunk(2, dim=-1)
        return value * gate * gate.sigmoid()

    def turned(x):
        """Each pair (j, j + d/2) of a head turned by position times 10000^(-2j/d)."""
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-2 * torch.arange(half) / x.shape[-1])
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)

    def attend(queries, keys, values, bias=0.0, turn=lambda x: x):
        seen = []
        for query in queries.chunk(heads, dim=-1):
            logits = turn(query) @ turn(keys).transpose(-1, -2) / math.sqrt(head_width) + bias
            seen.append(logits.softmax(dim=-1) @ values)
        return torch.cat(seen, dim=-1)

    for i in range(layers):
        cross, block = f"layers.{i}.0.fn", f"layers.{i}.1.fn"
        z = norm(x, f"{cross}.norm")
        keys, values = (context @ state[f"{cross}.to_kv.weight"].T).chunk(2, dim=-1)
        seen = attend(z @ state[f"{cross}.to_q.weight"].T, keys, values, mask[:, None]) @ state[f"{cross}.to_out.weight"].T
        x = x + seen + swiglu(z @ state[f"{cross}.ff.0.weight"].T) @ state[f"{cross}.ff.2.weight"].T
        fused = norm(x, f"{block}.norm") @ state[f"{block}.fused_attn_ff_proj.weight"].T
        widths = [heads * head_width, head_width, head_width, fused.shape[-1] - (heads + 2) * head_width]
        queries, keys, values, inner = fused.split(widths, dim=-1)
        seen = attend(queries, keys, values, turn=turned) @ state[f"{block}.attn_out.weight"].T
        x = x + seen + swiglu(inner) @ state[f"{block}.ff_out.1.weight"].T
    return x
