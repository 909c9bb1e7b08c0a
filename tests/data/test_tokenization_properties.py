"""Texts of any characters, and tokenizers of any settings."""

import datasets
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_distill.data.language_modeling import cut_to_fit, language_model_rows
from hf_distill.data.tokenization import tokenize, tokenize_pairs
from tests.properties import REFUSED, answer, examples, quiet

ODD = [
    "",
    " ",
    "\t\n",
    "\u200b",
    "\u200f\u202e",
    "\ufeff",
    "\x00",
    "e\u0301",
    "👩‍👩‍👧",
    "שלום",
    "مرحبا",
    "[CLS]",
    "a" * 300,
    "\U0010ffff",
]
texts = (
    st.sampled_from(ODD) | st.text(max_size=12) | st.builds("{} {}".format, st.sampled_from(ODD), st.text(max_size=5))
)


def word_level(special=True, unknown="[UNK]", **settings):
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"]
    backend = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown, eos_token="[SEP]", **settings)


def byte_level(special=True, unknown=None, **settings):
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({name: number for number, name in enumerate(symbols)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=special)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="a", **settings)


limits = st.sampled_from([None, 1, 2, 3, 4, 8, 512, 0, -1, 10**30, 1e30, 2.5, True, "4", float("nan"), float("inf")])
tokenizers = st.builds(
    lambda kind, special, unknown, limit, names, **sides: kind(
        special, unknown, **sides, **({} if limit is None else {"model_max_length": limit}), model_input_names=names
    ),
    st.sampled_from([word_level, byte_level]),
    st.booleans(),
    st.sampled_from(["[UNK]", None]),
    limits,
    st.sampled_from(
        [["input_ids", "attention_mask"], ["input_ids"], ["input_ids", "token_type_ids", "attention_mask"]]
    ),
    truncation_side=st.sampled_from(["right", "right", "left"]),
    padding_side=st.sampled_from(["right", "left"]),
    chat_template=st.sampled_from(
        [None, "{% for m in messages %}{{ m.content }}b{% endfor %}", "{% if %}", "{{ messages[9].content }}", "a"]
    ),
)
plain = st.builds(word_level, st.booleans())


def tokens_of(function, rows, *arguments, **options):
    with quiet():
        return answer(function, datasets.Dataset.from_dict(rows), *arguments, **options)


@examples(10, share=1 / 4)
@given(
    rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=3),
    paired=st.booleans(),
    reader=plain,
    limit=st.integers(5, 9),
)
def test_every_text_is_tokens_within_the_limit(rows, paired, reader, limit):
    one, other = map(list, zip(*rows, strict=True))
    columns = {"text": one, "label": [0] * len(one)} | ({"text_pair": other} if paired else {})
    made = tokens_of(tokenize, columns, reader, max_length=limit, teacher_tokenizer=byte_level(), teacher_max_length=6)
    assert len(made) == len(rows)
    assert all(len(ids) <= limit for ids in made["input_ids"])
    assert all(len(ids) <= 6 for ids in made["teacher_input_ids"])


@examples(10, share=1 / 4)
@given(rows=st.lists(st.lists(texts, max_size=4), min_size=1, max_size=3), reader=plain)
def test_every_word_keeps_its_place(rows, reader):
    labels = [list(range(len(words))) for words in rows]
    made = tokens_of(tokenize, {"words": rows, "label": labels}, reader, teacher_tokenizer=word_level(False))
    for row, words in zip(made, rows, strict=True):
        assert sum(mark == 1 for mark in row["word_starts"]) == len(words)
        assert [label for label in row["labels"] if label >= 0] == list(range(len(words)))


values = texts | st.none()
columns = {
    "text": st.lists(values, min_size=2, max_size=2),
    "text_pair": st.lists(values, min_size=2, max_size=2),
    "words": st.lists(st.none() | st.lists(values, max_size=3), min_size=2, max_size=2),
    "label": st.sampled_from([[1, 0], [None, 1], [[1], [0, 1]], [[1, 1], None], ["a", "b"], [[], []]]),
    "source": st.lists(values, min_size=2, max_size=2),
    "target": st.lists(values, min_size=2, max_size=2),
}


@examples(20, share=1 / 2)
@given(
    rows=st.fixed_dictionaries({}, optional=columns),
    reader=tokenizers,
    limit=limits,
    teacher=st.none() | tokenizers,
    teacher_limit=limits,
)
@example(rows={"text": ["a", "b"]}, reader=word_level(), limit=-1, teacher=None, teacher_limit=None)
@example(
    rows={"words": [["a"], ["b"]], "label": [[1], []]}, reader=word_level(), limit=9, teacher=None, teacher_limit=None
)
def test_any_columns_and_any_tokenizer(rows, reader, limit, teacher, teacher_limit):
    for function in (tokenize, tokenize_pairs):
        made = tokens_of(
            function, rows, reader, max_length=limit, teacher_tokenizer=teacher, teacher_max_length=teacher_limit
        )
        made = made[0] if isinstance(made, tuple) else made
        assert made is REFUSED or limit is None or all(len(ids) <= limit for ids in made["input_ids"])


messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", ""]), "content": texts}), max_size=4
)


@examples(10, share=1 / 4)
@given(
    rows=st.one_of(
        st.fixed_dictionaries({"messages": st.lists(messages, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"text": st.lists(values, min_size=1, max_size=2)}),
        st.just({"messages": ["a"]}),
        st.just({"text": [5]}),
        st.just({"x": ["a"]}),
        st.just({"messages": [[{"role": "user", "content": ["a"]}]]}),
    ),
    reader=tokenizers,
    limit=limits,
)
def test_any_conversation(rows, reader, limit):
    for function in (language_model_rows, cut_to_fit):
        made = tokens_of(function, rows, reader, max_length=limit)
        assert made is REFUSED or len(made[0])


def test_half_of_a_surrogate_pair_is_no_text_for_arrow_either():
    with pytest.raises((UnicodeEncodeError, ValueError)):
        datasets.Dataset.from_dict({"text": ["\ud83d"]})
