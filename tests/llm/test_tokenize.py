"""Which tokens a text becomes and which of them are trained, against sequences written by hand."""

import pytest

from diffalign.llm import Text, Writer
from tests.llm.tiny import tokenizer

ASK, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}


def written(tokens, maker) -> list[str]:
    """The tokens, those that are trained in capitals (special ones between stars)."""
    words = maker.convert_ids_to_tokens(list(tokens.ids))
    return [(w.upper() if w[0] != "<" else f"*{w}*") if flag else w for w, flag in zip(words, tokens.trained, strict=True)]


def test_plain_text_ends_with_the_end_token_and_trains_the_response_alone():
    maker = tokenizer()
    tokens = Writer(maker)(Text("ab", " cd"))
    assert written(tokens, maker) == ["<bos>", "a", "b", " ", "C", "D", "*</s>*"] and tokens.size == 4


def test_an_end_that_is_there_is_not_written_twice():
    maker = tokenizer()
    assert written(Writer(maker)(Text("a", "b</s>")), maker) == ["<bos>", "a", "B", "*</s>*"]


def test_a_prompt_is_what_generation_starts_from():
    maker = tokenizer()
    writer = Writer(maker)
    for text in (Text("ab", " cd"), Text((ASK,), (ANSWER,))):
        tokens, prompt = writer(text), writer.prompt(text.prompt)
        assert list(tokens.ids[: len(prompt)]) == prompt and not any(tokens.trained[: len(prompt)]) and tokens.trained[len(prompt)]


def test_a_token_across_the_border_leaves_the_prompt_as_it_is():
    """``b`` and ``c`` merge: the prompt's tokens have to stay those of generation, and the response keeps its ``c``."""
    maker = tokenizer(merges=(("b", "c"),))
    writer = Writer(maker)
    assert maker.tokenize("abcd") == ["a", "bc", "d"]
    assert written(writer(Text("ab", "cd")), maker) == ["<bos>", "a", "b", "C", "D", "*</s>*"] and writer.merged == 1
    assert written(writer(Text("ab", " cd")), maker) == ["<bos>", "a", "b", " ", "C", "D", "*</s>*"] and writer.merged == 1


def test_a_chat_trains_the_assistants_turn_with_its_end():
    maker = tokenizer()
    assert written(Writer(maker)(Text((ASK,), (ANSWER,))), maker) == [
        "<u>", "h", "i", "</s>", "<a>", "Y", "E", "S", "*</s>*",
    ]  # fmt: skip


def test_of_several_turns_only_the_assistants_are_trained():
    maker = tokenizer()
    tool = {"role": "tool", "content": "x"}
    tokens = Writer(maker)(Text((ASK,), ({"role": "assistant", "content": "a"}, tool, {"role": "assistant", "content": "b"})))
    assert written(tokens, maker) == ["<u>", "h", "i", "</s>", "<a>", "A", "*</s>*", "<t>", "x", "</s>", "<a>", "B", "*</s>*"]


@pytest.mark.parametrize("truncation, kept", [
    ("keep_start", ["<bos>", "a", "b", "c", "D"]), ("keep_end", ["c", "D", "E", "F", "*</s>*"]), ("drop", None),
])  # fmt: skip
def test_what_becomes_of_long_texts(truncation, kept):
    maker = tokenizer()
    writer = Writer(maker, max_length=5, truncation=truncation)
    cut = writer.cut(writer(Text("abc", "def")))
    assert cut is None if kept is None else written(cut, maker) == kept
    short = writer(Text("a", "b"))
    assert writer.cut(short) is short


def test_a_cut_that_leaves_no_response_leaves_the_record_out():
    """Never a response of zero tokens, whose mean would be 0/0."""
    writer = Writer(tokenizer(), max_length=4, truncation="keep_start")
    assert writer.cut(writer(Text("abc", "def"))) is None


def test_a_too_long_text_is_an_error_that_says_what_to_do():
    writer = Writer(tokenizer(), max_length=5)
    with pytest.raises(ValueError, match="8 tokens are more than max_length 5.*keep_start cuts off the end of the response, keep_end"):
        writer.cut(writer(Text("abc", "def")))


@pytest.mark.parametrize("call, words", [
    (lambda: Writer(tokenizer(eos=None), "tiny"), "the tokenizer of tiny has no end-of-sequence token"),
    (lambda: Writer(tokenizer(), truncation="middle"), "truncation is 'middle'; allowed are error, keep_start, keep_end, drop"),
    (lambda: Writer(tokenizer(chat=None), "tiny")(Text((ASK,), (ANSWER,))), "the tokenizer of tiny has no chat template"),
    (lambda: Writer(tokenizer(chat="{{ raise_exception('no') }}"), "tiny")(Text((ASK,), (ANSWER,))), "refuses the turns user: no"),
    (lambda: Writer(tokenizer(chat="{{ messages | length }}{{ messages[-1]['content'] }}"), "tiny")(Text((ASK,), (ANSWER,))),
     "chat template of tiny writes a prompt differently once its answer follows"),
    (lambda: Text("a", ""), "an empty response has no token to learn from"),
    (lambda: Text("a", "  \n"), "an empty response"),
    (lambda: Text((ASK,), (ASK,)), r"no assistant turn at its end \(its roles are user, user\)"),
    (lambda: Text((ASK,), ()), "no assistant turn at its end"),
    (lambda: Text((), (ANSWER,)), "no turn before its response"),
    (lambda: Text((ASK,), ({"role": "assistant", "content": " "},)), "the last assistant turn of the chat is empty"),
    (lambda: Text("a", (ANSWER,)), "the prompt is plain text and the response a chat"),
    (lambda: Text((ASK,), ({"role": "assistant", "content": None},)), "the content of a turn of role assistant is 'None'; it must be text"),
    (lambda: Text(({"content": "x"},), (ANSWER,)), "a chat is a list of turns"),
])  # fmt: skip
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
