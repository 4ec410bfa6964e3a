"""Language models of several classes: their heads, what a step gets of them, adapters, references, samples."""

import pytest
import torch

from diffalign import objectives
from diffalign.llm import Writer, adapters, load_language_model
from diffalign.llm.batch import TextStore, length_buckets
from diffalign.llm.evidence import tail_log_ratio
from diffalign.llm.logprobs import plain_logps
from diffalign.llm.reading import read_texts
from diffalign.llm.reference import Precomputed, row_keys
from diffalign.llm.sampling import sample
from diffalign.llm.step import text_step
from diffalign.models import make_reference
from tests.llm import tiny

KINDS = {  # what stands between hidden states and logits: (scale, cap)
    "llama": ({}, (1.0, None)),
    "gpt2": ({}, (1.0, None)),
    "gemma2": ({"final_logit_softcapping": 5.0, "head_dim": 8}, (1.0, 5.0)),
    "cohere": ({"logit_scale": 0.25}, (0.25, None)),
    "granite": ({"logits_scaling": 4.0}, (0.25, None)),
    "qwen2": ({"tie_word_embeddings": True}, (1.0, None)),
}


def batch_of(model, pairs, count=4):
    records, _ = read_texts(pairs)
    writer = Writer(model.tokenizer, model.name)
    return TextStore(records, [tuple(map(writer, record.images)) for record in records])(list(range(count)))


@pytest.fixture
def model(folder):
    return load_language_model(str(folder))


@pytest.fixture
def batch(model, pairs):
    return batch_of(model, pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_the_models_own(kind, pairs, tmp_path):
    changes, (scale, cap) = KINDS[kind]
    model = load_language_model(str(tiny.build(tmp_path, kind, **changes)), chunk=3)
    assert (model.module.head.scale, model.module.head.cap) == (scale, cap) and model.notes == [] and model.longest == 64
    batch = batch_of(model, pairs)
    model.lm.requires_grad_(True)
    found = model.predict(batch.input_ids, batch.trained).logps
    attention = torch.ones_like(batch.input_ids)
    own = plain_logps(model.lm(input_ids=batch.input_ids, attention_mask=attention).logits[:, :-1], batch.input_ids[:, 1:])
    wanted = batch.trained[:, 1:]
    assert (found[wanted] - own[wanted]).abs().max() < 2e-5 and not found[~wanted].any()
    parameters = list(model.lm.parameters())
    ours, theirs = (torch.autograd.grad(x[wanted].sum(), parameters, allow_unused=True) for x in (found, own))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def test_a_head_that_is_more_than_known_is_left_to_the_model(folder, pairs):
    """A factor that no config tells of: the logits are then made whole, by the model itself."""
    from diffalign.llm.models import LanguageModel

    model = load_language_model(str(folder))
    plain = batch_of(model, pairs)
    model.lm.lm_head.register_forward_hook(lambda module, args, output: 3 * output)
    odd = LanguageModel("odd", str(folder), model.lm, model.tokenizer)
    assert odd.module.head is None and "from whole logits" in odd.notes[0]
    own = plain_logps(odd.lm(input_ids=plain.input_ids).logits[:, :-1], plain.input_ids[:, 1:])
    wanted = plain.trained[:, 1:]
    assert (odd.predict(plain.input_ids, plain.trained).logps[wanted] - own[wanted]).abs().max() < 1e-5


def test_padding_changes_nothing(model, batch):
    wider = torch.nn.functional.pad(batch.input_ids, (0, 7), value=5), torch.nn.functional.pad(batch.trained, (0, 7))
    one, other = model.predict(batch.input_ids, batch.trained).logps, model.predict(*wider).logps[:, : batch.input_ids.shape[1] - 1]
    assert (one - other).abs().max() < 1e-5


def test_dropout_is_switched_off(tmp_path, pairs):
    model = load_language_model(str(tiny.build(tmp_path, "gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)))
    batch = batch_of(model, pairs)
    model.module.train()
    assert torch.equal(*(model.predict(batch.input_ids, batch.trained).logps for _ in range(2)))


@pytest.mark.parametrize("targets, layers", [
    ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
    ("attention+ff", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ("q_proj, v_proj", {"q_proj", "v_proj"}),
])  # fmt: skip
def test_adapters_go_where_they_are_meant(model, targets, layers):
    adapters.add(model, rank=2, alpha=None, targets=targets, seed=0)
    trained = {name.split(".lora_")[0].rpartition(".")[2] for name, p in model.module.named_parameters() if p.requires_grad}
    assert trained == layers


@pytest.mark.parametrize("targets", ["lm_head", "to_q", ""])
def test_layers_without_that_name_are_refused(model, targets):
    with pytest.raises(ValueError, match="has no layer called.*it has down_proj, gate_proj"):
        adapters.add(model, rank=2, alpha=None, targets=targets, seed=0)


def test_a_saved_adapter_gives_stock_peft_the_trained_logits(model, batch, folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapters.add(model, rank=2, alpha=8, targets="all-linear", seed=0)
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
    adapters.save(model, tmp_path)
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tmp_path)
    assert torch.equal(stock(input_ids=batch.input_ids).logits, model.lm(input_ids=batch.input_ids).logits)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert not torch.allclose(stock(input_ids=batch.input_ids).logits, base(input_ids=batch.input_ids).logits)


@pytest.mark.parametrize("train", ["lora", "full"])
def test_every_reference_starts_at_ln_2_and_stays_where_it_should(train, folder, batch):
    dpo = objectives.get("dpo", beta=0.1)
    for kind in ("start", "ema", "precomputed", *(["base"] if train == "lora" else [])):
        model = load_language_model(str(folder))
        if train == "lora":
            adapters.add(model, rank=2, alpha=None, targets="attention", seed=0)
        else:
            model.lm.requires_grad_(True)
        if kind == "precomputed":
            reference = Precomputed(model, [batch], None)
        else:
            reference = make_reference(kind, model, ema=0.5 if kind == "ema" else None)
        out = text_step(model, reference, dpo, batch)
        assert out.terms.loss.tolist() == pytest.approx([0.6931471805599453] * 4, abs=1e-6)
        out.terms.loss.sum().backward()
        before = out.evidence.reference
        with torch.no_grad():
            for parameter in model.module.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05)
        reference.update()
        after = text_step(model, reference, dpo, batch)
        assert not torch.allclose(after.evidence.policy, out.evidence.policy)
        assert torch.allclose(after.evidence.reference, before, atol=1e-5) == (kind != "ema")


def test_a_precomputed_reference_knows_its_texts_and_its_weights(model, batch, folder, tmp_path):
    first = Precomputed(model, [batch], tmp_path)
    assert len(first.cache) == len(set(row_keys(batch.input_ids, batch.trained)))
    (place,) = tmp_path.iterdir()
    again = Precomputed(model, [batch], tmp_path)
    assert torch.equal(again.predict(batch.input_ids, batch.trained).logps, first.predict(batch.input_ids, batch.trained).logps)
    wider = torch.nn.functional.pad(batch.input_ids, (0, 3)), torch.nn.functional.pad(batch.trained, (0, 3))
    assert torch.equal(first.predict(*wider).logps[:, :-3], first.predict(batch.input_ids, batch.trained).logps)
    with pytest.raises(ValueError, match="4 of 8 texts were not there"):
        other = batch.input_ids.clone()
        other[:4, 1] += 1
        first.predict(other, batch.trained)
    with torch.no_grad():
        next(model.lm.parameters()).add_(1.0)
    Precomputed(model, [batch], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # other weights, another folder
    facts = place / "provenance.json"
    facts.write_text(facts.read_text().replace('"dtype": "float32"', '"dtype": "float16"'))
    with pytest.raises(ValueError, match="this cache was made under other settings"):
        Precomputed(load_language_model(str(folder)), [batch], tmp_path)


def test_the_tail_is_what_the_partner_has_no_length_for():
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 1, 0]], dtype=torch.bool)
    policy, reference = torch.arange(10.0).reshape(2, 5), torch.zeros(2, 5)
    assert tail_log_ratio(policy, reference, mask, torch.tensor([[0, 1]])).tolist() == [3.0 + 4.0, 0.0]
    with pytest.raises(ValueError, match="a row of several pairs"):
        tail_log_ratio(policy, reference, mask, torch.tensor([[0, 1], [1, 0]]))


def test_buckets_are_equal_shares_by_length():
    lengths = [10, 40, 20, 30] * 20
    buckets = length_buckets(lengths, 2)
    assert set(buckets) == set(range(5)) and all(buckets.count(b) == 16 for b in range(5))
    longest = {b: max(n for n, c in zip(lengths, buckets, strict=True) if c == b) for b in range(5)}
    assert [longest[b] for b in range(5)] == sorted(longest.values())
    assert length_buckets(lengths[:10], 4) == [0] * 10


def test_a_response_is_the_same_alone_and_in_a_batch(model, pairs):
    writer, prompts = Writer(model.tokenizer), ["ab?", "a long one?", "c?"]
    settings = {"max_new_tokens": 6, "quiet": True, "seed": 3}
    together = sample(model, writer, prompts, **settings)
    assert sample(model, writer, prompts[1:2], **settings) == together[1:2]
    assert sample(model, writer, prompts, **settings | {"seed": 4}) != together
    assert sample(model, writer, prompts, index=1, **settings) != together
    greedy = [sample(model, writer, prompts, temperature=0, **settings | {"seed": s}) for s in (1, 2)]
    assert greedy[0] == greedy[1]


def test_samples_have_the_probabilities_of_the_model(model):
    """The first token of many responses, against the softmax of the prompt's last logits at a temperature of 0.5."""
    from collections import Counter

    from diffalign.llm.sampling import GumbelNoise

    logits = torch.tensor([[0.0, 1.0, 2.0]])
    drawn = Counter(int((GumbelNoise([i], 0.5)(None, logits)).argmax()) for i in range(4000))
    for token, probability in enumerate(torch.softmax(logits[0] / 0.5, 0).tolist()):
        assert drawn[token] / 4000 == pytest.approx(probability, abs=0.025)


@pytest.mark.parametrize("name, words", [
    ("builtin:shapes", "there is no embedded language model 'builtin:shapes'; there is: builtin:sums"),
    ("/nowhere/model", "'/nowhere/model' does not exist: pass a transformers folder"),
])  # fmt: skip
def test_names_without_a_model(name, words):
    with pytest.raises(ValueError, match=words):
        load_language_model(name)


def test_folders_that_are_no_language_model(folder, tmp_path):
    import shutil

    with pytest.raises(ValueError, match="has no config.json"):
        load_language_model(str(tmp_path))
    shutil.copytree(folder, tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "m" / name).unlink()
    with pytest.raises(ValueError, match="has no tokenizer that can be read|could not be loaded"):
        load_language_model(str(tmp_path / "m"))
