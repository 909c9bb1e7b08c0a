"""The usage in a card stands between two markers, and is rendered again for where the student goes."""

import json
import logging

import pytest

from hf_distill.hub.usage import BEGIN, END, Usage, addressed

EXAMPLES = {
    "text-classification": ["Some text"],
    "token-classification": ["Some", "words"],
    "translation": ["Some text"],
    "text-generation": ["Hello"],
}


def usage(**settings):
    return Usage(
        **{"task": "text-classification", "load_from": "student", "on_hub": False, "example": ["So"], **settings}
    )


@pytest.mark.parametrize("task", EXAMPLES)
@pytest.mark.parametrize("onnx", [(), (("model.onnx", 1234), ("model_quantized.onnx", 99))])
def test_only_the_block_changes(task, onnx):
    made = usage(task=task, example=EXAMPLES[task], onnx=onnx, trust=True)
    around = 'pipeline("text-classification", "student")\n{}\n```python\nAutoModel.from_pretrained("student")\n```\n'
    found = addressed(around.format(made.block), "me/x")
    assert found == around.format(usage(**{**vars(made), "load_from": "me/x", "on_hub": True}).block)
    assert ('"me/x"' in found) and ('"student", trust' not in found)
    assert addressed(addressed(found, "you/y"), "me/x") == found
    assert ("hf_hub_download" in found or "snapshot_download" in found) == bool(onnx)


@pytest.mark.parametrize("text", ["a --> b", "<!-- a", 'say "so"', "x" + END, BEGIN, "é ☃ \\u003e", "{{ a }} {% b %}"])
def test_an_example_cannot_end_the_markers(text):
    block = usage(example=[text]).block
    settings = block.splitlines()[0].removeprefix(BEGIN).removesuffix(" -->")
    assert json.loads(settings)["example"] == [text]
    assert addressed(block, "me/x") == usage(example=[text], load_from="me/x", on_hub=True).block


@pytest.mark.parametrize(
    "card",
    [
        "# A card\n\n```python\npipeline('text-classification', 'student')\n```\n",
        "",
        usage().text,
    ],
)
def test_a_card_without_markers_stays_and_nothing_is_told(card, caplog):
    assert addressed(card, "me/x") == card
    assert not caplog.records


@pytest.mark.parametrize(
    "changed",
    [
        lambda block: block.replace("classify(", "judge("),
        lambda block: block.replace('"task": "text', '"task": "other'),
        lambda block: block.replace('"on_hub"', '"later"'),
        lambda block: block.replace("\\u003e", "?") if "\\u003e" in block else block.replace("{", "", 1),
        lambda block: block.replace(END, ""),
        lambda block: block.replace('["So"]', "7"),
        lambda block: block.replace('"on_hub"', '"onnx": [3], "on_hub"'),
    ],
)
def test_a_block_that_somebody_changed_stays_and_is_told(changed, caplog):
    card = changed(usage().block)
    assert card != usage().block
    with caplog.at_level(logging.WARNING):
        assert addressed(card, "me/x") == card
    assert "not what this version writes" in caplog.text and "me/x" in caplog.text


def test_the_runtime_is_named_where_there_are_onnx_files():
    files = (("model.onnx", 1234),)
    assert 'python "student/runtime.py" "student" "a text"\n' in usage(onnx=files).text
    pair = usage(onnx=files, example=["a", "b"], load_from="me/x", on_hub=True).text
    assert "hf download me/x --local-dir student" in pair
    assert 'python "student/runtime.py" "student" "a text" --pair "another"\n' in pair
    for other in (usage(), usage(task="translation", onnx=(("encoder_model.onnx", 1),))):
        assert "runtime.py" not in other.text
