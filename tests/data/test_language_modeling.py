"""Rows for language models: which tokens are learnt, what they spell, and what is cut or left out."""

from types import SimpleNamespace

import datasets
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from hf_distill.data.language_modeling import continuing, cut_to_fit, language_model_rows
from hf_distill.students.tokenizer import student_tokenizer
from hf_distill.teachers.generating import as_prompt

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Its header is no generation prompt, and a line's end is all that ends a turn.
LINES = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
ONE_FOR_ALL = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}<|im_end|>"
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}" + CHATML
SHOUTING = CHATML.replace("message['content']", "(message['content'] | upper)")
MARKING_ONE = MARKED.replace("message['role'] == 'assistant'", "message['role'] == 'assistant' and loop.last")

STORY = "how are you today? I am well, thank you. né 😀 assistant user system Hello there"


def byte_level(vocab_size=320, **settings):
    """A tokenizer like SmolLM2's, trained on a line."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([STORY] * 4, trainer)
    roles = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **roles | settings)
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


def turns(*said):
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]


def conversations(*messages):
    return datasets.Dataset.from_dict({"messages": list(messages), "id": [str(n) for n in range(len(messages))]})


def targets(tokenizer, row, prefix=""):
    """What the targets of a row spell, each run of them by itself."""
    runs, before = [], False
    for token, label in zip(row[prefix + "input_ids"], row[prefix + "labels"], strict=True):
        if label != -100:
            assert label == token
            runs = [*runs[:-1], [*runs[-1], token]] if before else [*runs, [token]]
        before = label != -100
    return [tokenizer.decode(run) for run in runs]


TALK = turns("Hello there", " I am né 😀\n", "how?", "thank you", "bye")


@pytest.mark.parametrize("template", [CHATML, MARKED, REFUSING])
def test_targets_are_the_replies_with_their_end_of_turn(tokenizer, template):
    rows, counts = language_model_rows(conversations(TALK), tokenizer, chat_template=template)
    (row,) = rows
    assert targets(tokenizer, row) == ["I am né 😀<|im_end|>", "thank you<|im_end|>"]
    assert row["target_bytes"] == len("I am né 😀thank you".encode())
    assert row["attention_mask"] == [1] * len(row["input_ids"])
    # The last words of the user answer nothing yet, so the row ends before them.
    through = tokenizer.apply_chat_template([*turns("Hello there", "I am né 😀", "how?", "thank you")], tokenize=False)
    assert tokenizer.decode(row["input_ids"]) + "\n" == through
    assert counts == {"rows": 1, "replies": 2}


def test_marks_in_a_template_are_read_by_transformers(tokenizer):
    messages = turns("Hello", "I am well", "how?", "thank you")
    row = language_model_rows(conversations(messages), tokenizer, chat_template=MARKED)[0][0]
    expected = tokenizer.apply_chat_template(
        messages, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    length = len(row["input_ids"])
    assert row["input_ids"] == expected["input_ids"][:length]
    assert [int(label != -100) for label in row["labels"]] == expected["assistant_masks"][:length]
    assert not any(expected["assistant_masks"][length:])


def test_a_template_without_marks_gives_the_same_rows(tokenizer):
    messages = turns("x", "x", "x", "user", "system", "x<y")
    marked, plain = (
        language_model_rows(conversations(messages), tokenizer, chat_template=template)[0]
        for template in (MARKED, CHATML)
    )
    assert marked[:] == plain[:]
    assert len(targets(tokenizer, plain[0])) == 3


def test_where_white_space_is_all_that_ends_a_turn_it_is_learnt(tokenizer):
    row = language_model_rows(conversations(turns("Hello", "user", "how?", "I")), tokenizer, chat_template=LINES)[0][0]
    # Byte-level tokens hold the space before a word.
    assert targets(tokenizer, row) == [" user\n", " I\n"]
    assert row["target_bytes"] == 5


def test_an_opening_line_of_the_assistant_is_a_reply(tokenizer):
    opening = [{"role": "assistant", "content": "Hello"}, *turns("how?", "well")]
    row = language_model_rows(conversations(opening), tokenizer)[0][0]
    assert targets(tokenizer, row) == ["Hello<|im_end|>", "well<|im_end|>"]


def test_the_first_token_of_a_row_is_nobodys_target(tokenizer):
    opening = [{"role": "assistant", "content": "Hello there"}, *turns("how?")]
    words = "{% for message in messages %}{{ message['content'] + '<|im_end|>' }}{% endfor %}"
    row = language_model_rows(conversations(opening), tokenizer, chat_template=words)[0][0]
    assert row["labels"][0] == -100
    first = tokenizer.decode(row["input_ids"][:1])
    assert row["target_bytes"] == len("Hello there") - len(first) > 0


def test_rows_are_cut_on_the_right(tokenizer):
    whole = language_model_rows(conversations(TALK), tokenizer)[0][0]
    ends = [n + 1 for n, index in enumerate(whole["labels"]) if index == tokenizer.eos_token_id]
    first = next(n for n, label in enumerate(whole["labels"]) if label != -100)
    with pytest.raises(ValueError, match=r"No row is left .* 1 conversations of which no reply fits the limit"):
        language_model_rows(conversations(TALK), tokenizer, max_length=first)
    spelled = set()
    for limit in range(first + 1, len(whole["input_ids"])):
        rows, counts = language_model_rows(conversations(TALK), tokenizer, max_length=limit)
        row = rows[0]
        length = len(row["input_ids"])
        assert length <= limit
        assert row["labels"][-1] != -100
        assert (row["input_ids"], row["labels"]) == (whole["input_ids"][:length], whole["labels"][:length])
        said = "".join(targets(tokenizer, row)).replace("<|im_end|>", "").rstrip("\ufffd")
        assert row["target_bytes"] == len(said.encode())
        assert counts[f"replies beyond the limit of {limit} tokens, cut off"] == sum(end > limit for end in ends)
        spelled.add(row["target_bytes"])
    assert len(spelled) >= 8


def test_the_tokenizers_own_limit_holds(tokenizer):
    limited = byte_level(model_max_length=40)
    long = turns("Hello", "I am well, thank you. " * 10)
    rows, counts = language_model_rows(conversations(long), limited, max_length=1000)
    assert len(rows[0]["input_ids"]) == 40
    assert counts == {"rows": 1, "replies": 1, "replies beyond the limit of 40 tokens, cut off": 1}


def test_unusable_conversations_are_counted_by_reason(tokenizer):
    good = turns("Hello", "well")
    given = conversations(
        [],
        None,
        good[:1],
        [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}],
        turns("Hello", " \n"),
        turns("Hello", None),
        [*good, {"role": "gpt", "content": "well"}],
        turns("Hello", "well<|im_end|>"),
        good,
    )
    rows, counts = language_model_rows(given, tokenizer)
    assert len(rows) == 1
    assert counts == {
        "rows": 1,
        "replies": 1,
        "conversations without messages, left out": 2,
        "conversations without a reply, left out": 2,
        "conversations with an empty reply, left out": 2,
        "conversations with the role 'gpt' (known are system, user, assistant), left out": 1,
        "conversations that spell a special token, left out": 1,
    }


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (ONE_FOR_ALL, "of which the chat template writes earlier turns anew"),
        (REFUSING, r"that the chat template refuses \(no system prompt\)"),
        (SHOUTING, "of which the chat template changes a reply"),
        (MARKING_ONE, "of which the chat template marks other tokens than each reply"),
    ],
)
def test_templates_that_do_not_show_the_replies(tokenizer, template, reason):
    system = {"role": "system", "content": "x"}
    with pytest.raises(ValueError, match=f"No row is left to learn from: 1 conversations {reason}, left out"):
        language_model_rows(
            conversations([system, *turns("Hello", "well", "how?", "you")]), tokenizer, chat_template=template
        )


def test_a_template_is_needed_and_may_be_passed():
    bare = byte_level()
    bare.chat_template = None
    with pytest.raises(ValueError, match=r"has no chat template.*Set tokenizer\.chat_template = "):
        language_model_rows(conversations(TALK), bare)
    rows, _ = language_model_rows(conversations(TALK), bare, chat_template=CHATML)
    assert len(targets(bare, rows[0])) == 2
    assert bare.chat_template is None


def test_what_cannot_be_read_is_an_error(tokenizer):
    with pytest.raises(ValueError, match=r"Expected a column 'messages' .* got dialogue"):
        language_model_rows(datasets.Dataset.from_dict({"dialogue": ["x"]}), tokenizer)
    with pytest.raises(ValueError, match="SimpleNamespace does not say which characters"):
        language_model_rows(conversations(TALK), SimpleNamespace(is_fast=False))
    parts = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    with pytest.raises(ValueError, match="content is text, got list"):
        language_model_rows(conversations(parts), tokenizer)


@pytest.fixture(scope="module")
def student(tokenizer):
    return student_tokenizer(tokenizer, [STORY], 270)


def test_a_students_own_tokenizer_keeps_template_and_special_tokens(tokenizer, student, tmp_path):
    student.save_pretrained(tmp_path)
    for kept in (student, PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert kept.chat_template == CHATML
        assert (kept.bos_token, kept.eos_token, kept.unk_token) == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
        said = [kept.convert_ids_to_tokens(kept(token).input_ids) for token in ("<|im_start|>", "<|im_end|>")]
        assert said == [["<|im_start|>"], ["<|im_end|>"]]
        assert "<repo_name>" in {str(token) for token in kept.added_tokens_decoder.values() if token.special}
    assert len(student) < len(tokenizer)


def test_teacher_and_student_read_the_same_replies(tokenizer, student):
    given = conversations(TALK, turns("Hello", "né"))
    rows, counts = language_model_rows(given, student, teacher_tokenizer=tokenizer)
    assert rows.column_names == [
        "input_ids",
        "attention_mask",
        "labels",
        "teacher_input_ids",
        "teacher_attention_mask",
        "teacher_labels",
        "target_bytes",
    ]
    alone = language_model_rows(given, tokenizer)[0]
    for row, by_itself in zip(rows, alone, strict=True):
        assert targets(student, row) == targets(tokenizer, row, "teacher_")
        assert {name: row["teacher_" + name] for name in ("input_ids", "attention_mask", "labels")} == {
            name: by_itself[name] for name in ("input_ids", "attention_mask", "labels")
        }
        assert row["target_bytes"] == by_itself["target_bytes"]
        assert len(row["input_ids"]) > len(row["teacher_input_ids"])
    assert counts == {"rows": 2, "replies": 3}


def test_whole_messages_are_cut_so_that_both_read_the_same(tokenizer, student):
    long = turns(*["Hello there", "I am well, thank you"] * 5)
    given = conversations(long, TALK, turns("Hello there " * 20, "well"))
    limits = {"max_length": 100, "teacher_max_length": 40}
    _, counts = language_model_rows(given, student, teacher_tokenizer=tokenizer, **limits)
    assert counts["rows whose teacher reads more or less of the replies"] == 1

    for order in ((student, 100), (tokenizer, 40)), ((tokenizer, 40), (student, 100)):
        fitting, first = cut_to_fit(given, *order[0])
        fitting, second = cut_to_fit(fitting, *order[1])
        assert fitting["id"][:] == ["0", "1"]
        assert fitting[0]["messages"] == long[: len(fitting[0]["messages"])]
        assert all(row["messages"][-1]["role"] == "assistant" for row in fitting)
        left_out = "conversations of which no reply fits the limit, left out"
        assert first.get(left_out, 0) + second.get(left_out, 0) == 1
        rows, counts = language_model_rows(fitting, student, teacher_tokenizer=tokenizer, **limits)
        assert counts == {"rows": 2, "replies": len(fitting[0]["messages"]) // 2 + 2}
        assert all(targets(student, row) == targets(tokenizer, row, "teacher_") for row in rows)


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_as_many_messages_are_kept_as_fit(tokenizer, template):
    whole = language_model_rows(conversations(TALK), tokenizer, chat_template=template)[0][0]
    ends = [n + 1 for n, label in enumerate(whole["labels"]) if label == tokenizer.eos_token_id]
    for limit, kept, lost in ((ends[0], 2, 1), (ends[1] - 1, 2, 1), (ends[1], 4, 0)):
        fitting, counts = cut_to_fit(conversations(TALK), tokenizer, limit, chat_template=template)
        assert fitting[0]["messages"] == TALK[:kept]
        assert sum(counts.values()) == lost
    with pytest.raises(ValueError, match="no reply fits the limit"):
        cut_to_fit(conversations(TALK), tokenizer, ends[0] - 1, chat_template=template)


def texts(*given):
    return datasets.Dataset.from_dict({"text": list(given)})


def test_all_of_a_text_is_predicted(tokenizer):
    rows, counts = language_model_rows(texts("I am né", " ", None, "a<|im_end|>"), tokenizer)
    (row,) = rows
    assert row["input_ids"] == [1, *tokenizer("I am né").input_ids, 2]
    assert row["labels"] == [-100, *row["input_ids"][1:]]
    assert row["target_bytes"] == 8
    assert counts == {
        "rows": 1,
        "texts": 1,
        "texts without a word, left out": 2,
        "texts that spell a special token, left out": 1,
    }


def test_a_text_starts_with_its_end_or_else_with_a_token_that_is_not_predicted():
    for roles, expected in (({"bos_token": None}, [2]), ({"bos_token": None, "eos_token": None}, [])):
        tokenizer = byte_level(**roles)
        row = language_model_rows(texts("Hello there"), tokenizer)[0][0]
        ids = tokenizer("Hello there").input_ids
        assert row["input_ids"] == [*expected, *ids, *expected]
        assert row["labels"] == [-100, *row["input_ids"][1:]]
        unpredicted = 0 if expected else len(tokenizer.decode(ids[0]))
        assert row["target_bytes"] == len("Hello there") - unpredicted


def test_texts_are_cut_between_words(tokenizer):
    text = "how are you today? I am well"
    rows, counts = language_model_rows(texts(text), tokenizer, max_length=8)
    assert len(rows[0]["input_ids"]) == 8
    assert rows[0]["target_bytes"] == len(tokenizer.decode(rows[0]["input_ids"][1:]))
    assert counts == {"rows": 1, "texts": 1, "texts beyond the limit of 8 tokens, cut off": 1}
    fitting, counts = cut_to_fit(texts(text, "how"), tokenizer, 8)
    assert counts == {"texts beyond the limit of 8 tokens, cut off": 1}
    assert text.startswith(fitting[0]["text"] + " ")
    assert fitting[1]["text"] == "how"
    assert language_model_rows(fitting, tokenizer, max_length=8)[1] == {"rows": 2, "texts": 2}


def test_a_tokenizer_of_words_reads_texts_too(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c"]))
    row = language_model_rows(texts("a bc"), BertTokenizerFast(str(tmp_path / "vocab.txt")))[0][0]
    assert (row["input_ids"], row["target_bytes"]) == ([5, 6, 7], 3)


@pytest.mark.parametrize("settings", [{}, {"bos_token": None}, {"bos_token": None, "eos_token": None}])
def test_a_model_goes_on_with_texts_that_begin_as_it_learnt_them(settings):
    tokenizer = byte_level(**settings)
    rows, _ = language_model_rows(datasets.Dataset.from_dict({"text": ["how are you today?"]}), tokenizer)
    prompt = as_prompt("how are", continuing(tokenizer))
    assert prompt == rows[0]["input_ids"][: len(prompt)]
    assert tokenizer.chat_template == CHATML, "the tokenizer itself stays"
