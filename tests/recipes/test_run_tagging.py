"""Tagging from a CoNLL file to a student: two tokenizers, sentences without tags, words that are cut off."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForTokenClassification,
    BertTokenizerFast,
    RobertaConfig,
    RobertaForTokenClassification,
    RobertaTokenizerFast,
    set_seed,
)

from hf_distill.cli import main
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.run import run_recipe

NAMES, PLACES = "anna bertram celia dorian edith".split(), "aachen bergen cadiz dover essen".split()
OTHER = "a and came did go home in left long not of road saw slept the then to walked was went".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_sentences(path: Path, number: int = 500, untagged: bool = True) -> None:
    """Sentences in which somebody with one or two names does something somewhere; every third has no tags."""
    generator = np.random.default_rng(0)
    blocks = ["-DOCSTART- -X- O\n"]
    for row in range(number):
        words: list[tuple[str, str]] = []
        for _ in range(int(generator.integers(1, 3))):
            person = generator.choice(NAMES, int(generator.integers(1, 3)))
            words += [(name.title(), "I-PER" if place else "B-PER") for place, name in enumerate(person)]
            words += [(word, "O") for word in generator.choice(OTHER, int(generator.integers(2, 5)))]
            words.append((str(generator.choice(PLACES)).title(), "B-LOC"))
        words.append((".", "O"))
        tagged = row % 3 or not untagged
        blocks.append("\n".join(f"{word} X {tag}" if tagged else word for word, tag in words))
    path.write_text("\n\n".join(blocks) + "\n")


def write_teacher(folder: Path, family: str = "bert") -> None:
    folder.mkdir()
    words = [*NAMES, *PLACES, *OTHER]
    letters = sorted({letter for word in words for letter in word} | {"."})
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 66,
        "initializer_range": 0.1,
    }
    set_seed(0)
    if family == "bert":
        vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words]
        (folder / "vocab.txt").write_text("\n".join(vocabulary))
        BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
        BertForTokenClassification(BertConfig(vocab_size=len(vocabulary), **shape)).save_pretrained(folder)
        return
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *(letter.upper() for letter in letters), "Ġ"]
    (folder / "vocab.json").write_text(
        json.dumps({token: number for number, token in enumerate(dict.fromkeys(tokens))})
    )
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = RobertaTokenizerFast.from_pretrained(folder, model_max_length=64)
    tokenizer.save_pretrained(folder)
    RobertaForTokenClassification(
        RobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, bos_token_id=0, eos_token_id=2, **shape)
    ).save_pretrained(folder)


def recipe(folder: Path, **changes) -> Path:
    content = {
        "task": "token-classification",
        "output_dir": str(folder / "out"),
        "data": {"path": str(folder / "names.conll"), "text": "words", "label": "tags", "test": 60, "validation": 40},
        "teacher": {
            "model": str(folder / "teacher"),
            "fine_tune": {"num_train_epochs": 8, "learning_rate": 2.0e-3, "per_device_train_batch_size": 16},
        },
        "student": {"vocab_size": 90, "config": {"embedding_size": 16, "hidden_size": 16}, "max_length": 24},
        "distill": {"num_train_epochs": 8, "learning_rate": 2.0e-2, "disable_tqdm": True},
        "compare": {"resamples": 200, "metrics": ["seqeval", "accuracy"], "more_seeds": [7]},
        "export": {"onnx": True},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        content[section] = {**content[section], key: value} if key else value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagging")
    write_sentences(folder / "names.conll")
    write_teacher(folder / "teacher")
    assert main(["run", str(recipe(folder))]) == 0
    return folder


@pytest.mark.long
def test_the_report(finished):
    report = json.loads((finished / "out" / "report.json").read_text())
    quality = {name: model["quality"]["seqeval"]["value"] for name, model in report["models"].items()}
    assert quality["teacher"] > 0.9
    assert quality["student"] > 0.8
    assert set(report["controls"]) >= {"most_frequent_tag", "crf_tagger", "self_training", "teacher_hard_labels"}
    assert set(report["controls_with_teacher"]) == {"teacher_hard_labels", "crf_on_teacher_tags"}
    assert {"value", "low", "high"} <= set(report["differences"]["gain_over_best_control"])
    assert 0.7 < report["fidelity"]["agreement"] <= 1
    assert set(report["breakdown"]["word"]) <= {"in the labelled sentences", "unseen"}
    assert report["seeds"] == 2
    assert report["run"]["rows"]["unlabelled"] > 100
    assert report["run"]["rows"]["training words cut off for the student"] >= 0


@pytest.mark.long
def test_the_student_tags_words_elsewhere(finished):
    tokenizer = AutoTokenizer.from_pretrained(finished / "out" / "student")
    student = AutoModelForTokenClassification.from_pretrained(finished / "out" / "student").eval()
    read = tokenizer([["Celia", "went", "to", "Dover", "."]], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        tags = student(**read).logits[0].argmax(-1)
    starts = [number for number, word in enumerate(read.word_ids(0)) if word is not None]
    first = {read.word_ids(0)[number]: number for number in reversed(starts)}
    assert student.config.id2label[int(tags[first[0]])] == "B-PER"
    assert student.config.id2label[int(tags[first[3]])] == "B-LOC"
    assert (finished / "out" / "student" / "onnx" / "model.onnx").is_file()


@pytest.mark.long
def test_a_byte_level_teacher_and_a_transformer_student_with_its_own_words(tmp_path):
    """A RoBERTa reads words with a space before them; its cut-down student reads as it does, from stages of states."""
    write_sentences(tmp_path / "names.conll", 200)
    write_teacher(tmp_path / "teacher", "roberta")
    report = run_recipe(
        Recipe.load(
            recipe(
                tmp_path,
                student={"kind": "transformer", "vocab_size": None, "config": {"num_hidden_layers": 1}},
                distill={
                    "num_train_epochs": 2,
                    "matching": [{"kind": "hidden_state", "layers": {-1: -1}}],
                    "disable_tqdm": True,
                },
                export={"onnx": False},
                compare={"controls": ["crf_tagger"], "resamples": 50},
            )
        )
    )
    assert report is not None
    assert set(report.controls) >= {"crf_tagger"}
    assert "self_training" not in report.controls
    assert report.ratios["smaller"] > 1
