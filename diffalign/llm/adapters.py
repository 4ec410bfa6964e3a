"""LoRA of a language model: which layers are meant, and files that stock peft reads.

    model = AutoModelForCausalLM.from_pretrained(BASE); model = PeftModel.from_pretrained(model, folder)
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from diffalign.llm.models import LanguageModel
from diffalign.models import lora
from diffalign.models.lora_files import save_for_peft

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "query_key_value", "c_attn", "Wqkv", "query", "key", "value")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "fc_in", "fc_out", "c_fc", "dense_h_to_4h",
                "dense_4h_to_h")  # fmt: skip
GROUPS = {"attention": ATTENTION, "attention+ff": (*ATTENTION, *FEED_FORWARD)}


def add(model: LanguageModel, *, rank: int, alpha: float | None, targets: str, seed: int) -> None:
    """A fresh adapter, the only thing that is trained, in float32.

    Args:
        targets: attention, attention+ff, all-linear (but for the head), or names of layers separated by commas.

    Raises:
        ValueError: nothing is called so, or the head is (log-probabilities read the head's own weights); ``lora.add``'s.
    """
    lora.add(model.module, rank=rank, alpha=alpha, targets=target_names(model, targets), seed=seed)


def target_names(model: LanguageModel, targets: str) -> list[str]:
    """The endings of the names of the layers that ``targets`` means, sorted. Raises ValueError where there are none."""
    from transformers.pytorch_utils import Conv1D

    head = model.lm.get_output_embeddings()
    layers = {name for name, part in model.lm.named_modules() if isinstance(part, nn.Linear | Conv1D) and part is not head}
    endings = {name.rpartition(".")[2] for name in layers}
    if targets == "all-linear":
        return sorted(endings)
    wanted = GROUPS.get(targets) or [name.strip() for name in targets.split(",")]
    found = sorted(name for name in wanted if any(layer == name or layer.endswith(f".{name}") for layer in layers))
    missing = [] if targets in GROUPS else [name for name in wanted if name not in found]
    if missing or not found:
        raise ValueError(
            f"lora_targets is {targets!r}, and '{model.name}' has no layer called {', '.join(missing or wanted)} that an adapter can be "
            f"put on (not its head); it has {', '.join(sorted(endings))}"
        )
    return found


def save(model: LanguageModel, folder: Path) -> Path:
    """Write the adapter as ``adapter_model.safetensors`` and ``adapter_config.json``, and the tokenizer beside it."""
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(model.module, adapter_name="default")
    config = model.module.peft_config["default"]
    config.base_model_name_or_path, config.task_type = model.place, "CAUSAL_LM"
    model.tokenizer.save_pretrained(folder)
    return save_for_peft(config, {key.removeprefix("lm."): value for key, value in state.items()}, Path(folder))
