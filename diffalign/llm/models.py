"""A causal language model of transformers, taken apart: what a preference step needs of it, and no more.

load_language_model("Qwen/Qwen2.5-0.5B-Instruct", dtype=torch.bfloat16)        a hub id
load_language_model("/models/my-llama")                                        a transformers folder
load_language_model("builtin:sums")                                            the model shipped with the package
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffalign.llm.logprobs import Head, States, plain_logps
from diffalign.models.parts import fingerprint
from diffalign.models.places import first_line, unreachable
from diffalign.objectives.evidence import upcast

BUILTIN = {"sums": "diffalign.worlds.sums"}
FACTORS = {"logit_scale": 1, "lm_head_multiplier": 1, "output_multiplier": 1, "logits_scaling": -1}  # config's name -> its exponent
CAP = "final_logit_softcapping"
LONGEST = "max_position_embeddings"
PROBE = 8  # tokens of the look whether the head is all that stands between hidden states and logits


class TokenOutput(NamedTuple):
    """Of N texts of T tokens.

    logps: (N, T - 1), at t the log-probability in nats of token t + 1 given those before it, float32 (float64 of a float64 model), zero
    where that is not trained. squares: (N, T - 1), log sum_v pi(v)^2 there, without gradient. states: of the trained places in row order,
    or None where the model makes its logits itself.
    """

    logps: Tensor
    squares: Tensor
    states: States | None


class TokenLogps(nn.Module):
    """The network a step calls: token ids in, log-probabilities of the trained tokens out.

    Where ``head`` is None, all logits of the trained positions are made at once by the model's own forward.
    """

    def __init__(self, lm: nn.Module, head: Head | None, chunk: int | None = None):
        super().__init__()
        self.lm, self.head, self.chunk = lm, head, chunk

    def forward(self, input_ids: Tensor, trained: Tensor) -> TokenOutput:
        """See ``LanguageModel.predict``."""
        wanted = trained[:, 1:]
        targets, states = input_ids[:, 1:][wanted], None
        if self.head is None:
            logits = self.lm(input_ids=input_ids, use_cache=False).logits[:, :-1][wanted]
            logps, squares = plain_logps(logits, targets), upcast(logits.detach()).log_softmax(-1).mul(2).logsumexp(-1)
        else:
            hidden = self.lm.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
            states = States(hidden[:, :-1][wanted], self.head.linear.weight, self.head.linear.bias)
            logps, squares = self.head.logps(states.hidden, targets, self.chunk)
        return TokenOutput(*(x.new_zeros(wanted.shape).masked_scatter(wanted, x) for x in (logps, squares)), states)


class LanguageModel:
    """A causal language model and its tokenizer.

    Attributes:
        name: what it was loaded as. place: the folder or hub id it was read from.
        lm: the transformers model; adapters live in it. tokenizer: its tokenizer.
        module: what is trained, ``lm`` and the head's arithmetic around it (``TokenLogps``); gradients, adapters and copies are its.
        network: what ``predict`` calls; ``module`` until a trainer sets it to something made of that.
        longest: most tokens the model was made for, or None where it does not say.
        notes: sentences for the log.
    """

    def __init__(self, name: str, place: str, lm: nn.Module, tokenizer: Any, chunk: int | None = None):
        self.name, self.place, self.lm, self.tokenizer = name, place, lm, tokenizer
        head = known_head(lm)
        self.notes = [] if head else ["log-probabilities: from whole logits, as this model's head is not a plain linear layer"]
        self.module = self.network = TokenLogps(lm, head, chunk)
        config = lm.config.get_text_config()
        self.longest: int | None = config.to_dict().get(config.attribute_map.get(LONGEST, LONGEST))

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.lm.parameters()).dtype

    def predict(self, input_ids: Tensor, trained: Tensor, network: Callable[..., TokenOutput] | None = None) -> TokenOutput:
        """Log-probabilities of the trained tokens.

        Args:
            input_ids: (N, T) int64, filled up on the right. A causal model never looks right, so what fills up needs no attention mask.
            trained: (N, T) bool, the tokens that are evidence.
            network: in place of ``self.network`` (references use it).
        """
        return (self.network if network is None else network)(input_ids, trained)

    def provenance(self) -> dict[str, Any]:
        """What stored log-probabilities depend on beside the texts' tokens: the weights' content and dtype."""
        return {"model": fingerprint(self.lm), "dtype": str(self.dtype).removeprefix("torch.")}


def load_language_model(
    name_or_path: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", revision: str | None = None,
    attention: str | None = None, chunk: int | None = None,
) -> LanguageModel:  # fmt: skip
    """A causal language model with its dropout switched off, in evaluation mode, all its weights frozen.

    Args:
        name_or_path: a hub id, a transformers folder, or ``builtin:NAME``.
        attention: transformers' ``attn_implementation``; None leaves the choice to it.
        chunk: positions whose logits exist at once (``Head.logps``).

    *Deviates:* a dropout that the model was trained with is set to 0 (as TRL does by default): policy and reference would differ before the
    first step.

    Raises:
        ValueError: nothing is there, it is no causal language model, or it comes without a tokenizer.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = locate(name_or_path)
    if not Path(place).is_dir() and (why := unreachable(place, "config.json", revision)):
        raise ValueError(f"'{name_or_path}' is no folder here and could not be fetched from the hub: {why}")
    try:
        config = AutoConfig.from_pretrained(place, revision=revision)
        drops = [key for key, value in config.to_dict().items() if isinstance(value, float) and key.endswith(("dropout", "pdrop"))]
        config.update(dict.fromkeys(drops, 0.0))
        choice = {} if attention is None else {"attn_implementation": attention}
        lm = AutoModelForCausalLM.from_pretrained(place, config=config, revision=revision, dtype=dtype, use_safetensors=True, **choice)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"'{name_or_path}' could not be loaded as a causal language model: {first_line(error)}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"'{name_or_path}' has no tokenizer that can be read: {first_line(error)}") from error
    lm.requires_grad_(False).eval().to(device)
    return LanguageModel(name_or_path, place, lm, tokenizer, chunk)


def locate(name: str) -> str:
    """The folder or hub id of a name. Raises ValueError where nothing is there."""
    if name.startswith("builtin:"):
        world = name.removeprefix("builtin:")
        if world not in BUILTIN:
            known = ", ".join(f"builtin:{world}" for world in BUILTIN)
            raise ValueError(f"there is no embedded language model '{name}'; there is: {known}")
        folder = importlib.resources.files(BUILTIN[world]) / "assets" / "model"
        if not folder.is_dir():
            raise ValueError(f"'{name}' is not in this installation ({folder} is missing): train it with python -m {BUILTIN[world]}.recipe")
        return str(folder)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"'{name}' has no config.json: pass a folder that a transformers model was saved in")
        return str(path)
    if path.is_file() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        what = "is a file" if path.is_file() else "does not exist"
        raise ValueError(f"'{name}' {what}: pass a transformers folder, a hub id (owner/name) or builtin:sums")
    return name


@torch.no_grad()
def known_head(lm: nn.Module) -> Head | None:
    """The head of a model whose logits are a linear layer on the last hidden states, with a factor and a cap where its config has one; None
    where that does not give the model's own logits on a few tokens."""
    linear = lm.get_output_embeddings()
    if type(linear) is not nn.Linear or lm.base_model is lm:
        return None
    config, scale = lm.config.get_text_config().to_dict(), 1.0
    for name, exponent in FACTORS.items():
        if config.get(name) is not None:
            scale *= config[name] ** exponent
    head = Head(linear, scale, config.get(CAP))
    ids = torch.arange(PROBE, device=linear.weight.device)[None] % linear.weight.shape[0]
    mode = lm.training
    lm.eval()
    own = lm(input_ids=ids, use_cache=False).logits.float()
    ours = head.logits(lm.base_model(input_ids=ids, use_cache=False).last_hidden_state).float()
    lm.train(mode)
    near = 16 * torch.finfo(linear.weight.dtype).eps
    return head if own.shape == ours.shape and torch.allclose(own, ours, rtol=0, atol=near * own.abs().max().item()) else None


def tokenizer_key(tokenizer) -> str:
    """16 hex digits of a tokenizer's vocabulary and chat template."""
    facts = (sorted(tokenizer.get_vocab().items()), tokenizer.chat_template)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
