"""The question: what a prompt says, and what it refuses."""

import pytest

from hf_distill.teachers.prompts import ClassPrompt
from tests.teachers.serving import characters

CLASSES = {"negative": "somebody dislikes something", "positive": None}


def test_the_message_before_the_last_paragraph_is_the_text_itself():
    prompt = ClassPrompt(CLASSES, "How?", examples=[("nice", "positive")])
    *_, last = prompt.messages("a {text}\n\nof {two} paragraphs", by_letter=True)
    assert last["content"].rpartition("\n\n")[0] == "Text: a {text}\n\nof {two} paragraphs"
    roles = [message["role"] for message in prompt.messages("x", by_letter=True)]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("by_letter", [True, False])
def test_examples_are_answered_as_the_question_is(by_letter):
    prompt = ClassPrompt(CLASSES, examples=[("nice", "positive")])
    answer = "B" if by_letter else "positive"
    assert prompt.messages("x", by_letter)[2]["content"] == answer
    assert (
        f"Text: nice\n\n{prompt.messages('x', by_letter)[-1]['content'][9:]}\n\nAnswer: {answer}\n\n"
        in prompt.plain("x", by_letter)
    )
    listed = "A: negative (somebody dislikes something)" if by_letter else "- negative (somebody dislikes something)"
    assert listed in prompt.messages("x", by_letter)[0]["content"].splitlines()


def test_spellings_are_the_name_and_its_cases_unless_they_name_another_class():
    assert ClassPrompt(["US", "us", "other"]).answers(by_letter=False) == [["US"], ["us"], ["other", "Other"]]
    prompt = ClassPrompt(["no", "yes"], spellings={"yes": ["yes", "sure"]})
    assert prompt.answers(by_letter=False) == [["no", "No"], ["yes", "sure"]]
    assert prompt.answers(by_letter=True) == [["A"], ["B"]]


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}",
        "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}",  # leaves it out
    ],
)
def test_templates_without_a_system_message_get_the_instruction_in_the_first(template):
    tokenizer = characters()
    tokenizer.chat_template = template + tokenizer.chat_template
    rendered, space = ClassPrompt(CLASSES, "How does it feel?").rendered("nice", True, tokenizer)
    assert rendered.startswith("u|How does it feel?") and rendered.endswith("a|") and space == ""
    assert "Text: nice" in rendered


def test_the_record_changes_with_everything_that_is_asked():
    first = ClassPrompt(CLASSES)
    others = [
        ClassPrompt([*CLASSES]),
        ClassPrompt([*CLASSES][::-1]),
        ClassPrompt(CLASSES, "Else?"),
        ClassPrompt(CLASSES, template="Tweet: {text}"),
        ClassPrompt(CLASSES, examples=[("a", "positive")]),
        ClassPrompt(CLASSES, spellings={"positive": ["yes"]}),
    ]
    assert first.record() == ClassPrompt(dict(CLASSES)).record()
    assert all(first.record() != other.record() for other in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["one"]}, "at least two classes"),
        ({"classes": ["a", "a"]}, "need different names"),
        ({"classes": "ab"}, "at least two classes"),
        ({"classes": ["a", " "]}, "classes: expected a text that is not blank, got ' '"),
        ({"classes": [0, 1]}, "classes: expected a text that is not blank, got 0"),
        ({"classes": {"a": 1, "b": None}}, "classes: expected a text that is not blank, got 1"),
        ({"classes": CLASSES, "examples": ["ab"]}, "expected pairs of a text and the name of its class, got 'ab'"),
        ({"classes": CLASSES, "examples": [("a", "b", "c")]}, "expected pairs of a text"),
        ({"classes": CLASSES, "spellings": {"positive": "yes"}}, "a list of answers that name 'positive', got 'yes'"),
        ({"classes": CLASSES, "template": "no place"}, r"\{text\} once"),
        ({"classes": CLASSES, "template": "{text} {text}"}, r"\{text\} once"),
        ({"classes": CLASSES, "instruction": " "}, "instruction: expected a text"),
        ({"classes": CLASSES, "examples": [("a", "good")]}, "no class 'good', only negative, positive"),
        ({"classes": CLASSES, "spellings": {"good": ["a"]}}, "spellings: there is no class 'good'"),
        (
            {"classes": CLASSES, "spellings": {"negative": ["x"], "positive": ["x"]}},
            "'x' must name one class, and names 'negative' and 'positive'",
        ),
    ],
)
def test_bad_prompts(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassPrompt(**arguments)


def test_more_classes_than_letters():
    prompt = ClassPrompt([f"class {number}" for number in range(27)])
    with pytest.raises(ValueError, match="27 classes and 26 letters"):
        prompt.messages("x", by_letter=True)
    assert len(prompt.messages("x", by_letter=False)) == 2
