"""Pairs, conversations and plain texts: cleaned, split, and everything that is left out counted."""

import json

import pytest

from hf_distill.data.config import NEAR_DUPLICATES, Data
from hf_distill.data.generation import load_writing


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pairs(number=40):
    return [
        {"en": f"word{chr(97 + row % 26)} number{'x' * row}", "es": f"palabra {row}", "book": row // 4}
        for row in range(number)
    ]


def test_pairs_are_split_and_cleaned(tmp_path):
    rows = [
        *pairs(),
        {"en": "  ", "es": "nada", "book": 90},  # no text
        {"en": "alone", "es": " ", "book": 91},  # no target
        pairs()[3],  # a duplicate
    ]
    data = Data(path=write(tmp_path / "a.jsonl", rows), text="en", target="es", test=6, validation=4)
    splits = load_writing(data, task="translation")
    assert splits.counts["empty texts, left out"] == 1
    assert splits.counts["rows without a target"] == 1
    assert splits.counts["duplicates, left out"] == 1
    assert splits.unlabelled["source"][:] == ["alone"] and splits.unlabelled["target"][:] == [""]
    parts = [set(part["source"]) for part in (splits.train, splits.unlabelled, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [30, 1, 4, 6]
    assert len(set.union(*parts)) == 41


def test_books_stay_together(tmp_path):
    data = Data(
        path=write(tmp_path / "a.jsonl", pairs()), text="en", target="es", together="book", test=8, validation=4
    )
    splits = load_writing(data, task="translation", keep=["book"])
    books = [set(part["book"]) for part in (splits.train, splits.validation, splits.test)]
    assert len(books[2]) == 2 and sum(map(len, books)) == len(set.union(*books))


def test_no_near_duplicate_of_a_held_out_text_is_trained_on(tmp_path):
    rows = [*pairs(20), {"en": "And he said: go!", "es": "a", "book": 50}]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.jsonl", rows)
    write(tmp_path / "data" / "test.jsonl", [{"en": "and he said go", "es": "b", "book": 51}])
    data = Data(path=str(tmp_path / "data"), text="en", target="es", test="test", validation=4)
    splits = load_writing(data, task="translation")
    assert splits.counts[NEAR_DUPLICATES] == 1
    assert "And he said: go!" not in splits.train["source"][:] + splits.validation["source"][:]


def test_conversations(tmp_path):
    talks = [
        [{"role": "user", "content": f"hello {'a' * n}"}, {"role": "assistant", "content": "hi"}] for n in range(20)
    ]
    rows = [{"messages": talk} for talk in [*talks, [], talks[2]]]
    data = Data(path=write(tmp_path / "a.jsonl", rows), messages="messages", test=3, validation=2)
    splits = load_writing(data, task="text-generation")
    assert splits.counts["conversations without messages, left out"] == 1
    assert splits.counts["duplicates, left out"] == 1
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [15, 2, 3]
    assert splits.train[0]["messages"][1] == {"role": "assistant", "content": "hi"}


def test_texts(tmp_path):
    rows = [{"text": f"story {'b' * n}"} for n in range(12)] + [{"text": ""}, {"text": "story bb"}]
    data = Data(path=write(tmp_path / "a.jsonl", rows), test=2, validation=2)
    splits = load_writing(data, task="text-generation")
    assert splits.counts["empty texts, left out"] == 1 and splits.counts["duplicates, left out"] == 1
    assert len(splits.train) == 8


def test_held_out_rows_without_a_target_are_counted_where_they_are_left_out(tmp_path):
    for part, number in {"train": 20, "validation": 6, "test": 8}.items():
        words = [f"{part} {'x' * row}" for row in range(1, number + 1)]
        rows = [{"en": word, "es": "" if row < 2 else word} for row, word in enumerate(words)]
        write(tmp_path / f"{part}.jsonl", rows)
    data = Data(path=str(tmp_path), text="en", target="es", test="test", validation="validation")
    counts = load_writing(data, task="translation").counts
    assert counts["rows without a target"] == 6
    assert counts["rows of test without a target, left out"] == 2 == counts["unlabelled"]
    assert counts["rows of validation without a target, left out"] == 2
    assert (counts["train"], counts["validation"], counts["test"]) == (18, 4, 6)


USER, PARTS = {"role": "user", "content": "hi"}, [{"type": "text", "text": "hi"}]


@pytest.mark.parametrize(
    "messages",
    [
        [{"from": "human", "value": "hi"}],
        [{"role": "user", "content": PARTS}],
        json.dumps([USER]),
        [{"role": None, "content": "hi"}],
    ],
)
def test_messages_that_are_no_roles_and_texts(tmp_path, messages):
    rows = [{"messages": [] if isinstance(messages, list) else "[]"}, {"messages": messages}]
    data = Data(path=write(tmp_path / "a.jsonl", rows), messages="messages", test=1, validation=1)
    at = 1 if isinstance(messages, list) else 0
    with pytest.raises(
        ValueError, match=f"data.messages: expected conversations as lists .* in row {at} .* json.loads"
    ):
        load_writing(data, task="text-generation")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "fr"}, "data.text: there is no column 'fr'"),
        ({"target": "fr"}, "data.target: there is no column 'fr'"),
        ({"together": "page"}, "data.together: there is no column 'page'"),
        ({"test": "test"}, "data.test: .* has no split 'test'"),
        ({"test": 400}, "data.test: asked for 400 rows"),
    ],
)
def test_what_does_not_fit(tmp_path, changes, message):
    settings = {"text": "en", "target": "es", "test": 4, "validation": 4, **changes}
    data = Data(path=write(tmp_path / "a.jsonl", pairs()), **settings)
    with pytest.raises(ValueError, match=message):
        load_writing(data, task="translation")
