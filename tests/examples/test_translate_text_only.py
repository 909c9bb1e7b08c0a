"""examples/translate_text_only.py from end to end: a made-up teacher, a few dozen sentences, a tiny student."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

SCRIPT = Path(__file__).parents[2] / "examples" / "translate_text_only.py"
specification = importlib.util.spec_from_file_location("translate_text_only", SCRIPT)
script = importlib.util.module_from_spec(specification)
specification.loader.exec_module(script)

# Word for word, except that it has nothing to say about snakes. It notes what it is asked.
TEACHER = """
PORTUGUESE = {"the": "o", "dog": "cão", "cat": "gato", "bird": "pássaro", "sees": "vê", "likes": "ama", "old": "velho"}
asked = []

def translate(texts):
    asked.extend(texts)
    return ["" if "snake" in text else " ".join(PORTUGUESE.get(word, word) for word in text.split()) for text in texts]
"""
ADJECTIVES, ANIMALS, VERBS = ("old", "small", "tired"), ("dog", "cat", "bird"), ("sees", "likes")
SENTENCES = [
    f"the {adjective} {one} {verb} the {other}"
    for adjective in ADJECTIVES
    for one in ANIMALS
    for verb in VERBS
    for other in ANIMALS
]
# What a released student meets: transformers without hf_distill.
STANDALONE = """
import sys
sys.modules["hf_distill"] = None  # any import of it fails, even where it is installed
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
folder, *texts = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(texts, padding=True, return_tensors="pt")
print(model.generate(**inputs).tolist())
"""


def run(monkeypatch, folder, *words):
    """The figures of one run of the script, whose threads do not stay."""
    output = folder / "figures.json"
    small = {"sentences": 40, "held-out": 6, "epochs": 2, "vocab-size": 80, "embedding-size": 16, "hidden-size": 16}
    options = {**small, "folder": folder, "output": output}
    given = [f"--{name}={value}" for name, value in options.items()]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *given, *words])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    script.main()
    return json.loads(output.read_text())


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    (tmp_path / "made_up_teacher.py").write_text(TEACHER)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("made_up_teacher")
    del sys.modules["made_up_teacher"]


@pytest.mark.long
def test_end_to_end(tmp_path, monkeypatch, teacher):
    source = tmp_path / "sentences.txt"
    snakes = [f"a {adjective} snake sleeps" for adjective in ADJECTIVES]
    lines = [*SENTENCES, *snakes, "The old dog, sees the cat!", "hi", " ", "far " * 30]
    source.write_text("\n".join(lines))
    words = [f"--source={source}", "--teacher=made_up_teacher:translate", "--sentences=100"]
    figures = run(monkeypatch, tmp_path, *words)

    assert figures["teacher"] == "made_up_teacher:translate"
    assert figures["source"] == "sentences.txt", "without the folders of this machine"
    different = len(SENTENCES) + len(snakes)
    assert figures["sentences_left_out"] == {"blank": 1, "shorter": 1, "longer": 1, "repeated": 1, "not_needed": 0}
    assert sum(figures["translations_empty"].values()) == len(snakes)
    assert sum(figures["sentences"].values()) == different - len(snakes)
    assert figures["translations_equal_to_source"] == {"test": 0, "validation": 0, "train": 0}
    quality = figures["quality"]
    assert quality["student, ONNX float32"]["same_text_as_student_in_torch"] == 1
    assert quality["student, torch, 32 at a time"] == quality["student, torch"]
    assert 0 < quality["source copied"]["chrf"] < 100
    assert figures["words_per_second_of_one_core"].keys() == quality.keys() - {
        "nearest training sentence",
        "source copied",
    } | {"teacher"}
    sizes = figures["weights_bytes"]
    assert sizes["student, ONNX int8"] < sizes["student, ONNX float32"]

    # Again, the ledger answers: the teacher is only timed, and never on the training set.
    before = set(teacher.asked)
    assert len(before) == different
    teacher.asked.clear()
    again = run(monkeypatch, tmp_path, *words)
    assert len(set(teacher.asked)) == figures["sentences"]["test"]
    assert again["quality"] == quality

    # Its folder is enough.
    folder, texts = tmp_path / "student", SENTENCES[:4]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub")}
    process = subprocess.run(
        [sys.executable, "-c", STANDALONE, folder, *texts], capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stderr
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    expected = model.generate(**tokenizer(texts, padding=True, return_tensors="pt"))
    assert json.loads(process.stdout) == expected.tolist()


def test_parts_share_no_sentence_and_no_group():
    groups = [
        [f"{animal} number {'i' * number} {verb}" for verb in VERBS] for animal in ANIMALS for number in range(1, 10)
    ]
    copies = [[text.upper() for text in group] for group in groups[:5]]
    parts, left_out = script.split([*groups, *copies], train=20, held_out=5)
    assert {name: len(texts) for name, texts in parts.items()} == {"test": 5, "validation": 5, "train": 20}
    assert left_out["repeated"] == 10
    assert left_out["not_needed"] == 2 * len(groups) - 30
    of = {text.lower(): number for number, group in enumerate(groups) for text in group}
    owners = {name: {of[text.lower()] for text in texts} for name, texts in parts.items()}
    assert len(set().union(*owners.values())) == sum(map(len, owners.values())), "a group in two parts"


def test_too_few_sentences():
    with pytest.raises(ValueError, match=r"has 18 different sentences.*2 x 9 are held out"):
        script.split([[text] for text in SENTENCES[:18]], train=20, held_out=9)


def test_a_part_without_translations(tmp_path):
    parts = {"train": ["one"], "test": ["two"]}
    with pytest.raises(ValueError, match="translates none of the 1 sentences of the test set"):
        script.translated(parts, lambda texts: [text.replace("two", "") for text in texts], "none", tmp_path / "ledger")


def test_long_pairs_are_counted():
    pairs = {part: {"source": ["a b", "a b"], "target": ["b " * 70, "b a"]} for part in ("train", "validation")}
    pairs["test"] = {"source": ["a " * 70, "b", "a"], "target": ["b", "a " * 70, "b"]}
    rows, long = script.tokenized(pairs, script.tokenizer_of(["a b"], 20))
    assert long == {"train": 1, "validation": 1, "test": 1}, "of the test only what the student reads is cut"
    assert rows.keys() == {"train", "validation"}
    assert len(rows["train"]) == 1
    assert len(rows["train"][0]["labels"]) < script.LENGTH


def test_nearest_sentence():
    train = {"source": ["the dog sleeps", "the cat eats", "the bird sings"], "target": ["cão", "gato", "pássaro"]}
    assert script.nearest(train, ["a bird sings", "the cat sleeps on a cat"]) == ["pássaro", "gato"]


def test_speed_is_of_words(monkeypatch):
    """A clock that only translations move: a word takes one second, the call that warms up is free."""
    now = np.zeros(())
    monkeypatch.setattr(script.time, "process_time", lambda: float(now))

    def translate(texts):
        now[...] += sum(len(text.split()) for text in texts)
        return texts

    assert script.words_per_second({"one": translate}, ["warm up", *SENTENCES]) == {"one": 1.0}


def test_sources(tmp_path):
    (tmp_path / "rows.csv").write_text("said,n\nhow are you,1\n,2\n")
    assert script.read_groups(str(tmp_path / "rows.csv"), "said") == [["how are you"], [""]]
    (tmp_path / "lines.txt").write_text("how are you\nwell\n")
    assert script.read_groups(str(tmp_path / "lines.txt"), "said") == [["how are you"], ["well"]]


def test_conversations(tmp_path, monkeypatch):
    package = tmp_path / "chitchat_dataset"
    package.mkdir()
    (package / "__init__.py").touch()
    talk = {"messages": [[{"text": "hello"}, {"text": "how are you"}], [{"text": "well"}]]}
    (package / "dataset.json").write_text(json.dumps({"some id": talk}))
    monkeypatch.syspath_prepend(tmp_path)
    assert script.read_groups(script.CHITCHAT, "text") == [["hello", "how are you", "well"]]
