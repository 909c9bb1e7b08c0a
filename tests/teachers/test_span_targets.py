"""Spans become tags of words: one rule for each thing that can be wrong, counted, and probabilities in closed form."""

import json

import numpy as np
import pytest

from hf_distill.teachers.span_targets import RULES, SMOOTHING, Sentence, iob2_tags, parsed, read_spans

CLASSES = ["PER", "LOC"]
TAGS = iob2_tags(CLASSES)
WORDS = ["Maria", "Lopez", "met", "Maria", "in", "New", "York", ",", "U", ".", "S", "."]
SENTENCE = Sentence.of_words(WORDS)  # Maria Lopez met Maria in New York , U . S .


def read(*spans, sentence=SENTENCE, answer=None):
    targets = read_spans([json.dumps(spans) if answer is None else answer], [sentence], CLASSES, TAGS)
    return targets, {name: number for name, number in targets.counts.items() if name in RULES and number}


def tagged(targets):
    return {number: TAGS[tag] for number, tag in enumerate(targets.labels[0]) if TAGS[tag] != "O"}


def by_text(text, label="PER", **more):
    return {"text": text, "label": label, **more}


def at(start, end, label="PER", **more):
    return {"start": start, "end": end, "label": label, **more}


def test_probabilities_are_the_scores_and_the_rest_is_outside():
    targets, wrong = read(at(0, 11, score=0.75), at(25, 33, "LOC"))
    rest = SMOOTHING / 5
    expected = np.full((12, 5), rest)
    expected[:, 0] += 1 - SMOOTHING
    for word, tag, score in ((0, 1, 0.75), (1, 2, 0.75), (5, 3, 1.0), (6, 4, 1.0)):
        expected[word, [0, tag]] = rest + (1 - SMOOTHING) * np.array([1 - score, score])
    (found,) = targets.log_probabilities
    assert found.dtype == np.float32 and np.exp(found.astype(float)) == pytest.approx(expected, rel=1e-5)
    assert np.exp(found.astype(float)).sum(axis=1) == pytest.approx(np.ones(12), abs=1e-6)
    assert tagged(targets) == {0: "B-PER", 1: "I-PER", 5: "B-LOC", 6: "I-LOC"} and not wrong
    assert (targets.counts["spans_given"], targets.counts["spans"]) == (2, 2)
    assert tagged(read(at(0, 5, score=0.4))[0]) == {}  # O is the more likely one


def test_tags_may_be_in_any_order():
    other = ["I-LOC", "B-PER", "O", "B-LOC", "I-PER"]
    answer = [json.dumps([at(0, 11), at(25, 33, "LOC")])]
    (found,) = read_spans(answer, [SENTENCE], CLASSES, other).log_probabilities
    (expected,) = read_spans(answer, [SENTENCE], CLASSES, TAGS).log_probabilities
    assert (found == expected[:, [TAGS.index(tag) for tag in other]]).all()


@pytest.mark.parametrize(
    ("span", "rule"),
    [
        (by_text("Maria", "DATE"), "unknown_label"),
        (by_text("Maria", "B-PER"), "unknown_label"),
        ({"text": "Maria"}, "malformed"),
        ({"text": "Maria", "label": 3}, "malformed"),
        ({"label": "PER"}, "malformed"),
        ({"label": "PER", "start": 3}, "malformed"),
        ({"label": "PER", "text": "  "}, "malformed"),
        ("Maria", "malformed"),
        (None, "malformed"),
        (at(-1, 3), "out_of_text"),
        (at(3, 3), "out_of_text"),
        (at(5, 3), "out_of_text"),
        (at(0, 1000), "out_of_text"),
        (at(5, 6), "out_of_text"),  # a space
        (at("0", "5"), "out_of_text"),
        (at(0.0, 5.0), "out_of_text"),
        (at(False, True), "out_of_text"),
        (by_text("Joan"), "not_found"),
        (by_text("aria"), "not_found"),  # within a word
        (by_text("maria"), "not_found"),
        (by_text("Mar.*"), "not_found"),
    ],
)
def test_what_is_left_out_is_counted(span, rule):
    targets, wrong = read(span, by_text("New York", "LOC"))
    assert tagged(targets) == {5: "B-LOC", 6: "I-LOC"} and wrong == {rule: 1}
    assert targets.counts["spans"] == 1 and targets.has_target.all()


@pytest.mark.parametrize("score", [1.5, -0.1, 97, float("nan"), float("inf"), "high", True, [0.5]])
def test_a_score_that_is_no_probability_leaves_a_span_without_one(score):
    targets, wrong = read(by_text("Lopez", score=score))
    assert wrong == {"bad_score": 1}
    assert (targets.log_probabilities[0] == read(by_text("Lopez"))[0].log_probabilities[0]).all()


def test_scores_of_none_and_of_rounded_softmaxes_are_fine():
    assert read(by_text("Lopez", score=None), by_text("York", score=1.0000002))[1] == {}


def test_labels_by_any_of_their_names_and_in_any_case():
    spans = [{"entity_group": "per", "start": 0, "end": 5}, {"entity": "LOC.", "text": "New York"}]
    assert tagged(read(*spans)[0]) == {0: "B-PER", 5: "B-LOC", 6: "I-LOC"}


def test_a_text_that_is_found_several_times():
    assert read(by_text("Maria", "LOC"), by_text("Lopez"), by_text("Maria"))[1] == {}
    in_order, _ = read(by_text("Maria", "LOC"), by_text("Lopez"), by_text("Maria"))
    assert tagged(in_order) == {0: "B-LOC", 1: "B-PER", 3: "B-PER"}
    everywhere, wrong = read(by_text("Maria"))
    assert tagged(everywhere) == {0: "B-PER", 3: "B-PER"} and wrong == {"repeated": 1}
    often, wrong = read(*[by_text("Maria")] * 3)
    assert tagged(often) == {0: "B-PER", 3: "B-PER"} and wrong == {"repeated": 3}
    twice, wrong = read(by_text("Lopez"), by_text("Lopez"))  # found once
    assert tagged(twice) == {1: "B-PER"} and wrong == {}


def test_texts_are_found_whatever_their_spaces():
    assert tagged(read(by_text("New\n York", "LOC"))[0]) == {5: "B-LOC", 6: "I-LOC"}
    assert tagged(read(by_text("U.S.", "LOC"))[0]) == {8: "B-LOC", 9: "I-LOC", 10: "I-LOC", 11: "I-LOC"}
    glued = Sentence.of_words(["in", "London.", "Nobody", "(Rome)"])
    targets, wrong = read(by_text("London", "LOC"), by_text("body"), by_text("Rome", "LOC"), sentence=glued)
    assert tagged(targets) == {1: "B-LOC", 3: "B-LOC"} and wrong == {"widened": 2, "not_found": 1}


def test_offsets_of_another_text_than_the_one_beside_them():
    targets, wrong = read(at(6, 11, text="New York"), at(0, 5, text=" Maria"))
    assert tagged(targets) == {0: "B-PER", 5: "B-PER", 6: "I-PER"} and wrong == {"relocated": 1}
    targets, wrong = read(at(500, 900, text="Lopez"))
    assert tagged(targets) == {1: "B-PER"} and wrong == {"relocated": 1}


def test_spans_that_cut_words_are_widened_and_spaces_around_them_are_none():
    targets, wrong = read(at(2, 8))
    assert tagged(targets) == {0: "B-PER", 1: "I-PER"} and wrong == {"widened": 1}
    targets, wrong = read(at(5, 12))  # the spaces around Lopez
    assert tagged(targets) == {1: "B-PER"} and wrong == {}


def test_of_spans_that_share_a_word_one_is_kept():
    targets, wrong = read(at(0, 11, score=0.6), at(6, 11, "LOC", score=0.9))
    assert tagged(targets) == {1: "B-LOC"} and wrong == {"overlapping": 1}
    targets, wrong = read(at(6, 11, "LOC"), at(0, 11))  # the longer one
    assert tagged(targets) == {0: "B-PER", 1: "I-PER"} and wrong == {"overlapping": 1}
    targets, wrong = read(at(0, 5, "LOC"), at(0, 5))  # the first one
    assert tagged(targets) == {0: "B-LOC"} and wrong == {"overlapping": 1}
    targets, wrong = read(at(0, 2, score=0.3), at(2, 5, score=0.8))  # pieces of a word: equal once they are widened
    assert np.exp(targets.log_probabilities[0][0, 1]) == pytest.approx(0.8, abs=1e-5)
    assert tagged(targets) == {0: "B-PER"} and wrong == {"widened": 2}


def test_neighbours_of_one_class_stay_two():
    assert tagged(read(at(0, 5), at(6, 11))[0]) == {0: "B-PER", 1: "B-PER"}


def test_words_that_are_empty_or_hold_spaces():
    sentence = Sentence.of_words(["", "New York", "", "now", ""])
    assert sentence.places == [(0, 0), (1, 9), (10, 10), (11, 14), (15, 15)]
    assert tagged(read(by_text("New York", "LOC"), sentence=sentence)[0]) == {1: "B-LOC"}
    assert tagged(read(at(1, 14), sentence=sentence)[0]) == {1: "B-PER", 2: "I-PER", 3: "I-PER"}
    assert read(at(4, 5), by_text("now"), sentence=sentence)[1] == {"out_of_text": 1}  # the space in a word


def test_texts_are_split_with_their_offsets():
    text = "Hé 😀, it's  Zoë's (हिन्दी)."
    sentence = Sentence.of_text(text)
    assert sentence.words == ["Hé", "😀", ",", "it", "'", "s", "Zoë", "'", "s", "(", "हिन्दी", ")", "."]
    assert [text[start:end] for start, end in sentence.places] == sentence.words
    assert tagged(read(by_text("Zoë"), by_text("हिन्दी", "LOC"), sentence=sentence)[0]) == {6: "B-PER", 10: "B-LOC"}


@pytest.mark.parametrize(
    ("answer", "spans"),
    [
        ("[]", 0),
        (' [{"text": "Maria", "label": "PER"}]\n', 1),
        ('```json\n[{"text": "Maria", "label": "PER"}]\n```', 1),
        ('{"entities": [{"text": "Maria", "label": "PER"}]}', 1),
        ('{"text": "Maria", "label": "PER"}', 1),
        ('{"text": "Maria", "label": "PER", "alternatives": []}', 1),
        ('<think>Is [it] {her}?</think>Here: [{"text": "Maria", "label": "PER"}] as asked.', 1),
    ],
)
def test_answers_that_can_be_read(answer, spans):
    assert len(parsed(answer)) == spans


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "none",
        "null",
        "<think>Perhaps [], or",
        '"Maria"',
        '[{"text": "Maria", "label": "PER"}, {"te',
        '[{"text": "Maria", "label": "PER"}',
        "[{'text': 'Maria', 'label': 'PER'}]",
        '{"text": "Maria", "label": "PER"}\n{"text": "Lopez", "label": "PER"}',
        '[{"text": "Maria", "label": "PER"}] and [{"text": "Lopez", "label": "PER"}]',
        '{"people": [], "places": []}',
        "{}",
        "[" * 100_000,
        "[" + "9" * 10_000 + "]",
    ],
)
def test_answers_that_cannot_be_read_are_no_target(answer):
    targets = read_spans([answer, "[]"], [SENTENCE, SENTENCE], CLASSES, TAGS)
    assert targets.has_target.tolist() == [False, True] and (targets.labels[0] == -100).all()
    assert np.isnan(targets.log_probabilities[0]).all()
    assert (targets.counts["unreadable"], targets.counts["without_target"]) == (1, 1)


def test_what_leaves_nothing_is_an_error_and_the_rest_is_told(caplog):
    with pytest.raises(ValueError, match=r"Of 1 answers with 2 spans .*'PER', 'LOC'.*2 spans have a label that is no"):
        read(by_text("Maria", "X"), by_text("Lopez", "Y"))[0].tell(CLASSES)
    with pytest.raises(ValueError, match=r"1 answers hold no JSON list of spans: their texts have no target. That le"):
        read(answer="I cannot")[0].tell(CLASSES)
    read()[0].tell(CLASSES)
    assert "None of 1 answers has a span: every word is tagged O." in caplog.text
    caplog.clear()
    read(by_text("Lopez"))[0].tell(CLASSES)
    assert not caplog.text
    read(at(0, 3), by_text("Joan"))[0].tell(CLASSES)
    assert "1 spans have a text that is not in the text: left out; 1 spans begin or end within a word" in caplog.text
