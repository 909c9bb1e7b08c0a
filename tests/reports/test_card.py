"""The card says what the report says, its usage runs where the package is missing, and nothing private gets in."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast, set_seed

from hf_distill import (
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    export_onnx,
)
from hf_distill.hub.markdown import code
from hf_distill.hub.outgoing import card_fault
from hf_distill.hub.usage import BEGIN, addressed
from hf_distill.redaction import without_folders
from hf_distill.reports.card import model_card, title
from hf_distill.reports.card_tables import results
from hf_distill.reports.report import Report
from tests.conftest import tiny_bert
from tests.hub.test_markdown import HOSTILE, tokens
from tests.hub.test_markdown import NAMES as STRANGE
from tests.hub_server import Hub
from tests.properties import examples

ROOT = Path(__file__).parents[2]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAMES = {0: "bad", 1: "good", 2: "neither"}
SENTENCE = ["anna", "left", "dover"]


def quality(value):
    return {
        "accuracy": {"value": value, "low": value - 0.0123, "high": value + 0.0112},
        "macro_f1": {"value": value - 0.1, "low": value - 0.1234, "high": value - 0.0567},
    }


def measured(value, parameters, p50):
    return {
        "quality": quality(value),
        "parameters": parameters,
        "bytes": 4 * parameters + 1234,
        "latency_ms": {"batch_1": {"p50": p50, "p95": 1.25 * p50}},
        "throughput": {"batch_32": 30_000 / p50},
        "tokens_per_text": 21.5,
    }


@pytest.fixture
def report():
    return Report(
        task="text-classification",
        metrics=["accuracy", "macro_f1"],
        examples=3012,
        models={
            "teacher": measured(0.9371, 22_713_216, 14.63),
            "student": measured(0.9234, 1_353_218, 0.991),
            "baseline": measured(0.8931, 1_353_218, 0.995),
        },
        controls={"tfidf": quality(0.9082), "tfidf_soft": quality(0.9153)},
        controls_with_teacher=["tfidf_soft"],
        ratios={"quality_kept": 0.98538, "smaller": 16.7846, "lighter": 16.77, "faster": 14.7629},
        ratio_intervals={"faster": {"low": 14.11, "high": 15.32}},
        differences={"gain_over_best_control": {"value": 0.0152, "low": 0.0041, "high": 0.0263, "control": "tfidf"}},
        fidelity={"agreement": 0.9517, "kl": 0.03456, "examples": 2000},
        errors={
            "student": {"value": 0.0766, "low": 0.0654, "high": 0.0889},
            "teacher": {"value": 0.0629, "low": 0.0517, "high": 0.0752},
            "error_ratio": {"value": 1.2178, "low": 1.0312, "high": 1.4512},
        },
        calibration={"teacher": 0.0181, "student": 0.0253, "tfidf": 0.0467},
        breakdown={
            "length": {
                "01-08 tokens": {
                    "examples": 1500,
                    **{name: {"accuracy": 0.91} for name in ("teacher", "student", "baseline", "tfidf")},
                    "error_ratio": 1.25,
                },
                "09-64 tokens": {"examples": 1512, "teacher": {"accuracy": 1.0}, "student": {"accuracy": 0.8765}},
            }
        },
        per_class={
            f"class {number}": {"support": number, "student": {"precision": 0.5, "recall": 0.6, "f1": number / 100}}
            for number in range(12)
        },
        test_sets={"other_domain": {"examples": 456, **{name: {"quality": quality(0.8)} for name in ("student",)}}},
        environment={
            "processor": "A Processor",
            "device": "cpu",
            "threads": 2,
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "texts_timed": 128,
            "calls_timed": 200,
            "timing": "models in turns",
        },
        warnings=["The student is only an example."],
    )


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "student"
    folder.mkdir()
    config = {"id2label": {"1": "positive", "0": "negative"}, "auto_map": {"AutoModelForSequenceClassification": "m.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def render(report, folder, **settings):
    settings = {"student_name": "tweets-lstm", "teacher": "some-user/some-teacher"} | settings
    model_card(report, folder, **settings)
    return ModelCard.load(folder / "README.md")


def full(report, folder, tmp_path, **settings):
    (folder / "report.png").write_bytes(b"")
    return render(
        report,
        folder,
        teacher_revision="abc123",
        repo_id="me/tweets-lstm",
        license="apache-2.0",
        language="en",
        datasets=["some-user/tweets", str(tmp_path / "more.csv")],
        fine_tuning={"learning_rate": 3.0e-5},
        stages=[
            {
                "soft_target_weight": 0.0,
                "matching": [{"kind": "hidden_state", "layers": {-1: -1}}],
                "output_dir": str(tmp_path),
            },
            {"temperature": 2.0, "learning_rate": 2.0e-3, "hub_token": "hf_secret", "run_name": str(tmp_path)},
        ],
        carried={"embeddings.weight": f"PCA of {tmp_path}/the | teacher's, 384 to 128"},
        splits={"train": 10_000, "test": 3012, "duplicates, left out": 12},
        reproduce=f"hf-distill run {tmp_path}/recipe.yaml",
        **settings,
    )


def assert_whole(content):
    """No template marks or blank runs are left, and every table stands on its own with equal rows."""
    assert "{{" not in content
    assert "{%" not in content
    assert "\n\n\n" not in content
    tables = re.findall(r"(?:^\|.*\n)+", content, flags=re.M)
    assert tables
    for table in tables:
        assert f"\n\n{table}" in content
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


# What it says


def test_metadata_is_what_the_hub_reads(report, folder, tmp_path):
    data = full(report, folder, tmp_path).data
    assert data.base_model == "some-user/some-teacher"
    assert data.base_model_relation == "finetune"
    assert data.license == "apache-2.0"
    assert data.language == "en"
    assert data.datasets == ["some-user/tweets"]
    assert data.pipeline_tag == "text-classification"
    assert data.library_name == "transformers"
    assert data.model_name == "tweets-lstm"
    assert data.metrics == ["accuracy", "f1"], "the names of the Hub's list"
    main = [result for result in data.eval_results if result.dataset_name != "other_domain"]
    assert [(result.metric_type, result.metric_name) for result in main] == [
        ("accuracy", "Accuracy"),
        ("f1", "Macro F1"),
    ]
    for result, said in zip(main, report.models["student"]["quality"].values(), strict=True):
        assert result.metric_value == said["value"]
        assert result.dataset_type == "some-user/tweets"
    further = [result for result in data.eval_results if result.dataset_name == "other_domain"]
    assert [result.metric_value for result in further] == [0.8, 0.8 - 0.1]


def test_every_figure_is_the_reports_own(report, folder, tmp_path):
    text = full(report, folder, tmp_path).text
    for named in (*(model["quality"] for model in report.models.values()), *report.controls.values()):
        for said in named.values():
            assert f"{said['value']:.4f} [{said['low']:.4f}, {said['high']:.4f}]" in text
    for model in report.models.values():
        assert f"{model['parameters']:,}" in text
        assert f"{model['bytes']:,}" in text
        assert f"{model['latency_ms']['batch_1']['p50']:.4g}" in text
    for value in report.ratios.values():
        assert f"{value:.4g}" in text
    assert "+0.0152 [+0.0041, +0.0263]" in text
    assert "0.9517 of 2,000 texts" in text
    assert "3,012 test examples" in text
    assert "student 0.0766 [0.0654, 0.0889], teacher 0.0629 [0.0517, 0.0752]" in text
    assert "1.22 [1.03, 1.45] times as many" in text
    assert "best at 0: teacher 0.0181, student 0.0253, tfidf 0.0467." in text


def test_what_has_no_interval_is_said_without(report, folder):
    """Where the teacher errs in too few of the resamples, the ratio of the errors has none."""
    text = render(replace(report, errors=report.errors | {"error_ratio": {"value": 7.5}}), folder).text
    assert "; the student makes 7.5 times as many." in text


def test_where_the_quality_lies(report, folder, tmp_path):
    text = full(report, folder, tmp_path).text
    assert "| accuracy |  | teacher | student | baseline | tfidf | errors, student over teacher |" in text
    assert "| length: `01-08 tokens` | 1,500 examples | 0.9100 | 0.9100 | 0.9100 | 0.9100 | 1.25 |" in text
    assert "| length: `09-64 tokens` | 1,512 examples | 1.0000 | 0.8765 |  |  |  |" in text
    assert "| `class 11` | 11 | 0.1100 |" in text
    assert "`class 2`" in text
    assert "`class 1`" not in text  # the commonest ten
    assert "| the main one | 3,012 | 0.9371 [" in text
    assert "| `other_domain` | 456 |  | 0.8000 [0.7877, 0.8112] |  |" in text
    assert "It was measured on 2 test sets" in text


def test_a_group_of_many_values_is_cut_to_the_commonest(report, folder):
    parts = {f"genre {number:02d}": {"examples": number, "student": {"accuracy": 0.5}} for number in range(1, 40)}
    text = render(replace(report, breakdown={"genre": parts}), folder).text
    assert re.findall(r"genre: `genre (\d\d)`", text) == [str(number) for number in range(30, 40)]


def test_the_card_says_how_to_remake_the_student(report, folder, tmp_path):
    text = full(report, folder, tmp_path).text
    assert "hf-distill run recipe.yaml" in text
    assert "Classes: `negative`, `positive`." in text
    assert "revision `abc123`" in text
    assert "once the teacher had been fine-tuned there" in text
    assert "The student is only an example." in text
    assert "The student: apache-2.0." in text
    assert "@article{hinton2015distilling" in text
    assert "![Quality against latency](report.png)" in text
    assert "10,000 train; 3,012 test; 12 duplicates, left out." in text
    assert "from the `recipe.yaml` of its run. `hf-distill push` puts it beside this card" in text
    assert r"PCA of the \| teacher's, 384 to 128" in text
    assert "| setting | teacher | student, stage 1 | student, stage 2 |" in text
    assert "| `matching` |  | hidden_state, layers {-1: -1} |  |" in text
    assert "| `temperature` |  |  | 2.0 |" in text
    assert "| `learning_rate` | 3e-05 |  | 0.002 |" in text


def test_speed_by_length_and_of_the_files(report, folder, tmp_path):
    assert "Of the ONNX files" not in full(report, folder, tmp_path).text
    file = {
        "bytes": 1_234_567,
        "agreement": 0.9963,
        "quality": quality(0.9228),
        "latency_ms": {"batch_1": {"p50": 0.2124, "p95": 0.3456}},
        "throughput": {"batch_32": 98_765.4},
        "tokens_per_text": 21.5,
        "ratios": {"lighter": 74.02, "faster": 68.88, "throughput": 21.23},
        "ratio_intervals": {"faster": {"low": 65.43, "high": 72.11}, "throughput": {"low": 20.01, "high": 22.32}},
    }
    row = {
        "model": "student",
        "runtime": "onnx int8",
        "batch": 32,
        "length": "long",
        "tokens": [31, 77],
        "calls": 8,
        "p50_ms": 3.2104,
        "p95_ms": 4.1234,
        "per_second": 9967.6,
        "faster": {"value": 33.333, "low": 30.02, "high": 36.61},
    }
    counts = {"student": (12.34e6, 574_000), "teacher": (910.1e6, 42_330_232)}
    models = {
        name: model | dict(zip(("flops_per_text", "flops_per_token"), counts[name], strict=True))
        if name in counts
        else model
        for name, model in report.models.items()
    }
    told = replace(report, onnx={"int8": file}, speed=[row], models=models)
    card = full(told, folder, tmp_path)
    assert_whole(card.content)
    assert "| student, onnx int8 |  | 1,234,567 | 0.2124 | 0.3456 | 98,765 | 21.5 |  |  |" in card.text
    assert "| 21.5 | 12.3 | 0.574 |" in card.text
    assert "Operations are those of the matrix products" in card.text
    assert "| onnx int8 | 0.9963 | 0.9228 [0.9105, 0.9340] |" in card.text
    assert "| 74.02 | 68.88 [65.43, 72.11] | 21.23 [20.01, 22.32] |" in card.text
    assert "| long | 32 | student, onnx int8 | 31-77 | 3.21 | 4.123 | 9,968 | 33.3 [30, 36.6] |" in card.text


@pytest.mark.parametrize(
    ("task", "files", "example"),
    [
        ("text-classification", ["model"], "Some text"),
        ("text-classification", ["model", "model_quantized"], ["One", "Two"]),
        ("token-classification", ["model"], ["Some", "words"]),
        ("translation", ["decoder_model", "encoder_model"], "Some text"),
        ("text-generation", [], "Hello"),
    ],
)
def test_a_card_for_a_folder_becomes_one_for_the_hub(report, folder, task, files, example):
    """What a push makes of a card is what would have been written had the repository been known."""
    (folder / "onnx").mkdir()
    for name in files:
        (folder / "onnx" / f"{name}.onnx").write_bytes(b"x")
    cards = [
        render(replace(report, task=task), folder, repo_id=repo_id, example=example).content
        for repo_id in (None, "me/x")
    ]
    assert cards[0] != cards[1]
    assert all(("With onnxruntime" in card) == bool(files) for card in cards)
    assert addressed(cards[0], "me/x") == cards[1]
    assert addressed(cards[1], "you/y") == cards[1].replace("me/x", "you/y")


def test_a_repository_without_an_owner_is_no_address_yet(report, folder):
    assert 'pipeline("text-classification", "student"' in render(report, folder, repo_id="tweets").text


def test_many_carried_weights_are_folded(report, folder):
    text = render(report, folder, carried={f"layer.{number}.weight": "its own" for number in range(11)}).text
    assert re.search(r"<details>.*\n\n\| student .*`layer\.10\.weight`.*\n\n</details>\n", text, re.S)


def test_nothing_private_is_left(report, folder, tmp_path):
    content = full(report, folder, tmp_path).content
    assert_whole(content)
    assert str(tmp_path) not in content
    assert "hf_secret" not in content
    assert not re.search(r"(?<![\w:/.])/(home|tmp|root|work|Users)\b", content)


def test_a_local_teacher_is_no_base_model(report, folder, tmp_path):
    teacher = tmp_path / "fine-tuned"
    teacher.mkdir()
    card = render(report, folder, teacher=str(teacher), teacher_revision="abc123")
    assert card.data.base_model is None
    assert "base_model_relation" not in card.content
    assert "`fine-tuned`" in card.text
    assert "abc123" not in card.text
    assert str(tmp_path) not in card.content


def test_a_report_without_baseline_and_controls_has_a_card(report, folder):
    bare = Report(
        task=report.task,
        metrics=report.metrics,
        examples=report.examples,
        models={name: report.models[name] for name in ("teacher", "student")},
        ratios={"smaller": 2.0, "faster": 0.5},
        environment=report.environment,
    )
    card = render(bare, folder)
    assert_whole(card.content)
    assert "There is no baseline" in card.text
    assert "2× fewer parameters and 2× more time a text" in card.text
    assert "No licence was chosen for the student" in card.text
    for missing in ("Gain over", "Read this first", "### By", "calibration error", "Errors (1", "seeds", "onnx"):
        assert missing not in card.text
    assert len(card.data.eval_results) == 2


def test_means_over_seeds_are_told_from_the_published_student(report, folder):
    models = json.loads(json.dumps(report.models))
    for name, values in (("student", [0.9251, 0.9217]), ("baseline", [0.8951, 0.8911])):
        for said in models[name]["quality"].values():
            said["values"] = values
    card = render(replace(report, models=models, seeds=2), folder)
    assert "accuracy 0.9234 (mean of 2 seeds) against the teacher's 0.9371" in card.text
    assert "The one published here is the first, which reached accuracy 0.9251, macro f1 0.9251;" in card.text
    assert "Intervals cover the choice of test examples and 2 trainings of the student, neither another teacher" in (
        card.text
    )
    result = next(one for one in card.data.eval_results if one.metric_type == "accuracy")
    assert result.metric_value == 0.9251


def test_a_teacher_of_other_classes_has_no_quality(report, folder):
    transfer = replace(
        report,
        models=report.models | {"teacher": report.models["teacher"] | {"quality": {}}},
        ratios={"smaller": 16.7846, "faster": 14.7629},
        fidelity={},
        errors={},
        breakdown={"length": {"01-08 tokens": {"examples": 3012, "student": {"accuracy": 0.9}}}},
        calibration={"student": 0.0253},
    )
    card = render(transfer, folder)
    assert_whole(card.content)
    assert "accuracy 0.9234, with 16.8× fewer" in card.text
    assert "against the teacher's" not in card.text
    assert "| teacher |  |  |  |\n" in card.text
    assert "22,713,216" in card.text
    assert "| length: `01-08 tokens` | 3,012 examples | 0.9000 |" in card.text


def test_words_that_were_cut_off_are_told(report, folder):
    words = {"words": 9000, "cut_off_teacher": 12, "cut_off_student": 32, "read_by_all": 8960, "scored": 8950}
    tagging = replace(
        report,
        task="token-classification",
        words=words,
        fidelity={"agreement": 0.97, "kl": 0.01, "examples": 20, "words": 300},
        breakdown={"word": {"unseen": {"words": 1718, "student": {"accuracy": 0.9}}}},
    )
    text = render(tagging, folder).text
    assert "3,012 test examples with 9,000 words, of which 8,950 are scored" in text
    assert "cut off at the longest that a model reads were 12 for the teacher and 32 for the student" in text
    assert "0.9700 of 300 words of 20 texts" in text
    missed = {"lost_words": 30, "entities": 70, "lost_entities": 4}
    text = render(replace(tagging, words=words | missed), folder).text
    assert "words that were cut off are scored as wrong, 4 of 70 entities as missed" in text
    assert "word: `unseen` | 1,718 words |" in text


def test_language_models_agree_on_tokens(report, folder):
    fidelity = {"agreement": 0.47, "kl": 1.25, "examples": 20, "tokens": 3000}
    text = render(replace(report, task="text-generation", fidelity=fidelity), folder).text
    assert (
        "the same next token on 0.4700 of 3,000 tokens of 20 texts; KL(teacher ‖ student) is 1.25 nats a token" in text
    )


def test_a_student_that_answers_all_alike_is_told(report, folder):
    def replies(share):
        models = {name: dict(model) for name, model in report.models.items()}
        models["student"]["replies"] = {"distinct_1": 0.1, "distinct_2": share, "prompts": 64}
        models["teacher"]["replies"] = {"distinct_1": 0.2, "distinct_2": 0.4, "prompts": 64}
        return render(replace(report, task="text-generation", models=models), folder).text

    told = "**It answers most prompts alike.** In its greedy replies to 64 prompts 10.0% of the pairs"
    assert told in replies(0.1)
    assert "alike" not in replies(0.3) and "alike" not in render(report, folder).text


def test_samples_and_what_hosted_inference_does(report, folder):
    card = render(report, folder, samples=[("a | b", "good (0.9)", "bad (0.6)")])
    assert "| text | teacher | student |\n| --- | --- | --- |\n| a \\| b | good (0.9) | bad (0.6) |" in card.text
    assert "Hosted inference does not run a repository's own code" in card.text
    assert_whole(card.content)
    card = render(report, folder, samples=[("a", "", "bad (0.6)")])  # of a teacher that was not asked
    assert "| text | student |\n| --- | --- |\n| a | bad (0.6) |" in card.text
    (folder / "config.json").write_text("{}")
    assert "Hosted inference" not in render(report, folder).text


@pytest.mark.parametrize(
    ("kind", "teacher", "told"),
    [
        ("lstm", "user/all-MiniLM-L6-v2", "Tweets: 1.4M-parameter LSTM distilled from all-MiniLM-L6-v2"),
        ("static", "./teacher", "Tweets: 1.4M-parameter static model distilled from a 23M-parameter teacher"),
    ],
)
def test_the_title_says_what_it_is(report, kind, teacher, told):
    assert title(report, "Tweets", kind, teacher) == told


def test_a_metric_that_falls_says_so(report, folder):
    bits = {"bits_per_byte": {"value": 1.25, "low": 1.2, "high": 1.3}}
    models = {name: model | {"quality": bits} for name, model in report.models.items()}
    models["untuned_teacher"] = models["teacher"]
    told = replace(report, task="text-generation", metrics=["bits_per_byte"], models=models, controls={}, test_sets={})
    text = render(told, folder).text
    assert "bits per byte (less is better) 1.2500 against the teacher's 1.2500" in text
    assert "Saved against the best control without a teacher (tfidf), paired: +0.0152 [+0.0041, +0.0263]" in text
    assert "| untuned teacher | 22,713,216 |" in text
    assert "untuned_teacher" not in text
    assert "less is better" not in render(report, folder).text


def test_translators_agree_on_whole_texts(report, folder):
    fidelity = {"agreement": 0.25, "examples": 20, "accuracy": {"value": 41.25, "low": 38.0, "high": 44.5}}
    text = render(replace(report, fidelity=fidelity), folder).text
    assert "translate 0.2500 of 20 texts the same, word for word" in text
    assert "the student reaches accuracy 41.2 [38.0, 44.5]" in text


def test_a_report_that_was_kept_has_a_card(folder):
    report = Report.load(ROOT / "model_cards" / "tweet-sentiment-lstm")
    card = render(report, folder)
    assert_whole(card.content)
    assert "accuracy 0.9207 against the teacher's 0.9307" in card.text
    # A saved report has its models by the alphabet.
    scored = [row for row in card.text.splitlines() if row.startswith("|") and "[0." in row]
    assert [row.split("|")[1].strip() for row in scored][:3] == [
        "teacher",
        "**student**",
        "baseline",
    ]


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "model_cards").glob("*/report.json")))
def test_a_kept_card_says_what_its_report_says(folder):
    kept = ROOT / "model_cards" / folder
    text, report = (kept / "README.md").read_text(encoding="utf-8"), Report.load(kept)
    assert results(report) in text
    assert f"]({folder}/README.md)" in (kept.parent / "README.md").read_text(encoding="utf-8")
    assert (kept / "report.png").exists()


def test_paths_are_told_from_other_slashes():
    assert without_folders("km/h, 1 / 2, https://a.org/b/c, a/b.csv") == "km/h, 1 / 2, https://a.org/b/c, a/b.csv"
    assert without_folders("--data=/srv/x/y.csv '~/a/b' C:\\Users\\me\\z.txt") == "--data=y.csv 'b' z.txt"


def test_names_of_the_data_are_no_markdown():
    assert [code(name) for name in ("a*b", "a`b", "", "/home/me/a.csv")] == [
        "`a*b`",
        "`` a`b ``",
        "`(empty)`",
        "`a.csv`",
    ]


# What it tells a user to run


def snippets(readme):
    """What the last line of each Python block of a card gives."""
    found = []
    for block in re.findall(r"```python\n(.*?)```", readme, flags=re.S):
        *lines, last = ast.parse(block).body
        names = {}
        exec(compile(ast.Module(lines, []), "card", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "card", "eval"), names)
        found.append(value.tolist() if hasattr(value, "tolist") else value)
    return found


def save(folder, model):
    """A model with a tokenizer that reads words letter by letter; both."""
    model.eval().save_pretrained(folder)
    vocabulary = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "."]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=16)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def named(**config):
    return {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}, **config}


def lstm(head, seed=0):
    set_seed(seed)
    return head(
        LSTMStudentConfig(
            vocab_size=60, embedding_size=6, hidden_size=6, pad_token_id=0, initializer_range=1.0, **named()
        )
    )


def bert(**config):
    model = tiny_bert(**named(**config))
    model.resize_token_embeddings(60)
    return model


def logits(saved, *texts, **settings):
    model, tokenizer = saved
    with torch.no_grad():
        return model(**tokenizer(*texts, truncation=True, return_tensors="pt", **settings)).logits[0]


def elsewhere(work, folders):
    """Push some of the folders to a Hub and run all their cards in a process that has no hf_distill."""
    script = f"""
import ast, json, re, sys
from pathlib import Path

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_distill":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from huggingface_hub import HfApi

{inspect.getsource(snippets)}
found = dict()
for name, repo_id in json.loads(sys.argv[1]).items():
    if repo_id:
        HfApi().create_repo(repo_id)
        HfApi().upload_folder(repo_id=repo_id, folder_path=name)
        Path(name).rename("gone-" + name)
    readme = Path(name if not repo_id else "gone-" + name) / "README.md"
    found[name] = snippets(readme.read_text(encoding="utf-8"))
print(json.dumps(found))
"""
    with Hub() as hub:
        done = subprocess.run(
            [sys.executable, "-c", script, json.dumps(folders)],
            capture_output=True,
            text=True,
            cwd=work,
            env={**os.environ, **hub.environment(work / "home"), "OMP_NUM_THREADS": "1"},
            timeout=800,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_what_the_cards_tell_to_run_runs_elsewhere(report, tmp_path):
    single = save(tmp_path / "single", lstm(LSTMStudentForSequenceClassification))
    tags = save(tmp_path / "tags", lstm(LSTMStudentForTokenClassification))
    pair = save(tmp_path / "pair", bert())
    several = save(tmp_path / "several", bert(problem_type="multi_label_classification"))
    for name, (model, _) in {"single": single, "tags": tags, "pair": pair}.items():
        export_onnx(model, tmp_path / name, int8=name == "single")
    text = 'she said\n"fine" \\o/ \'twas'
    render(report, tmp_path / "single", repo_id="me/single", example=text, license="mit")
    render(replace(report, task="token-classification"), tmp_path / "tags", example=SENTENCE)
    render(report, tmp_path / "pair", example=["a text", "another"])
    render(report, tmp_path / "several", example="a text")
    readme = (tmp_path / "single" / "README.md").read_text()
    assert 'pipeline("text-classification", "me/single", trust_remote_code=True)' in readme
    for name in ("model", "model_quantized"):
        size = (tmp_path / "single" / "onnx" / f"{name}.onnx").stat().st_size
        assert f"`onnx/{name}.onnx` ({size:,} bytes)" in readme
    assert "trust_remote_code" not in (tmp_path / "pair" / "README.md").read_text()

    found = elsewhere(tmp_path, {"single": "me/single", "tags": None, "pair": None, "several": None})
    for name, wanted in {
        "single": logits(single, " ".join(text.split())),
        "pair": logits(pair, "a text", "another"),
    }.items():
        said, run_by_onnx = found[name]
        said = said[0] if isinstance(said, list) else said
        assert said["label"] == NAMES[int(wanted.argmax())]
        assert said["score"] == pytest.approx(wanted.softmax(-1).max().item(), abs=1e-5)
        np.testing.assert_allclose(run_by_onnx, wanted[None], atol=1e-4)
    ((said,),) = found["several"]
    wanted = logits(several, "a text").sigmoid()
    scores = {one["label"]: one["score"] for one in said}
    assert [scores[NAMES[number]] for number in range(3)] == pytest.approx(wanted.tolist(), abs=1e-5)
    # anna and left are eight pieces, dover is cut: [CLS] a n n a l e f t d o v e r [SEP] has fifteen.
    wanted = logits(tags, SENTENCE, is_split_into_words=True)
    said, run_by_onnx = found["tags"]
    assert [tuple(one) for one in said] == [
        (word, NAMES[int(wanted[first].argmax())]) for word, first in zip(SENTENCE, (1, 5, 9), strict=True)
    ]
    assert len({tag for _, tag in said}) > 1
    np.testing.assert_allclose(run_by_onnx, wanted[None], atol=1e-4)


def test_with_the_package_no_code_needs_to_be_trusted(report, tmp_path, monkeypatch):
    saved = save(tmp_path / "tags", lstm(LSTMStudentForTokenClassification))
    render(replace(report, task="token-classification"), tmp_path / "tags", example=[*SENTENCE, "zoe"])
    readme = (tmp_path / "tags" / "README.md").read_text()
    assert "After `import hf_distill` it can be left out." in readme
    monkeypatch.chdir(tmp_path)
    (said,) = snippets(readme.replace(", trust_remote_code=True", ""))
    wanted = logits(saved, [*SENTENCE, "zoe"], is_split_into_words=True)
    assert len(wanted) == 16  # which is all that it reads: of zoe, one piece
    assert said == [
        (word, NAMES[int(wanted[first].argmax())])
        for word, first in zip([*SENTENCE, "zoe"], (1, 5, 9, 14), strict=True)
    ]
    (said,) = snippets(readme.replace(", trust_remote_code=True", "").replace('"anna"', '"annannannannannannanna"'))
    assert [word for word, _ in said] == ["annannannannannannanna"]


def test_warnings_stand_before_everything_else(report, folder):
    text = render(report, folder).text
    assert text.index("The student is only an example.") < text.index("```python") < text.index("## Results")
    assert "## Usage" not in render(replace(report, warnings=[]), folder).text


# Whatever the data, its classes and its columns are called


def named_by(report, names):
    """A report whose classes, groups, test sets, controls and metrics have these names."""
    first, second, third, fourth = names
    part = {"examples": 10, **{name: {"accuracy": 0.9} for name in ("teacher", "student", "baseline", "tfidf")}}
    return replace(
        report,
        breakdown={first: {second: part, f"{third} {fourth}": part}},
        per_class={name: {"support": number, "student": {"f1": 0.5}} for number, name in enumerate(names)},
        test_sets={third: {"examples": 456, "student": {"quality": quality(0.8)}}},
        controls={"tfidf": quality(0.9), f"own {fourth}": quality(0.8)},
        differences={"gain_over_best_control": {"value": 0.1, "low": 0.0, "high": 0.2, "control": f"own {fourth}"}},
        warnings=[f"Only 3 rows in {third}: few.", f"Classes are [{first!r}, {second!r}]."],
    )


def structure(text):
    """What a reader sees of a card beside its words: blocks, cells, links and tags."""
    kept = [token for token in tokens(text) if token.type not in ("text", "code_inline", "softbreak", "text_special")]
    return [
        token.content.strip().partition(BEGIN)[0] if token.type in ("html_block", "html_inline") else token.type
        for token in kept
        if token.content not in ("<code>", "</code>")
    ]


PLAIN = []  # the structure of a card with plain names


@examples(8, share=0.1)
@given(names=st.lists(STRANGE, min_size=4, max_size=4, unique_by=lambda name: " ".join(name.split())))
def test_names_change_nothing_but_words(report, folder, names):
    def made(words):
        labels = {str(number): word for number, word in enumerate(words)}
        config = {"id2label": labels, "auto_map": {"AutoModelForSequenceClassification": "m.M"}}
        (folder / "config.json").write_text(json.dumps(config))
        return render(
            named_by(report, words),
            folder,
            student_name=f"student {words[0]}",
            teacher=f"./{words[1]}" if "\0" not in words[1] else "./teacher",
            datasets=[f"data {word}" for word in words],
            license="mit",
            carried={f"weight {words[2]}": f"PCA of {words[3]}"},
            splits={f"rows {word}": 3 for word in words},
            stages=[{"matching": [{"kind": words[0], "layers": {words[1]: words[2]}}]}],
            fine_tuning={"lora": {words[3]: words[0]}},
            reproduce=f"hf-distill run {words[0]}",
            example=f"text {words[1]}",
        )

    if not PLAIN:
        PLAIN.extend(structure(made(["one", "two", "three", "four"]).text))
    card = made(names)
    content = (folder / "README.md").read_bytes().decode()
    assert structure(card.text) == PLAIN
    for row in re.findall(r"^\|.*$", card.text, re.M):
        assert row.endswith(" |")
    assert "<script" not in card.text and "\u202e" not in card.text
    # The metadata is the same after it was written and read.
    front = yaml.safe_load(content[3:][: content[3:].index("\n---\n")])
    assert front["license"] == "mit" and front["tags"] == ["knowledge-distillation", "hf_distill"]
    (index,) = front["model-index"]
    assert index["name"] == f"student {names[0]}"
    shown = [without_folders(f"data {names[0]}"), names[2]]
    assert {result["dataset"]["name"] for result in index["results"]} == set(shown)
    assert card_fault(card.content) is None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_push_says_the_same_of_a_strange_example(report, folder, name):
    text = render(report, folder, example=name or "a").content
    assert "<script" not in text.partition("-->")[2]
    assert addressed(text, "me/x") == render(report, folder, example=name or "a", repo_id="me/x").content


@pytest.mark.parametrize("key", ["license", "language"])
@pytest.mark.parametrize("value", ["mit\n---\n# mine", "mit\r", "a\u2028b", "", " ", "\u202emit", ["en", "x\ny"]])
def test_a_licence_of_several_lines_is_refused(report, folder, key, value):
    with pytest.raises(ValueError, match=f"{key}: expected an identifier as the Hub spells it, on one line"):
        render(report, folder, **{key: value})
    assert not (folder / "README.md").exists()


def test_a_card_is_not_written_through_a_link(report, folder, tmp_path):
    (tmp_path / "mine.md").write_text("mine")
    (folder / "README.md").symlink_to(tmp_path / "mine.md")
    with pytest.raises(ValueError, match=r"README\.md is a link, and the card would be written where it leads"):
        render(report, folder)
    assert (tmp_path / "mine.md").read_text() == "mine"


def test_a_card_that_was_cut_is_known(report, folder, tmp_path):
    content = full(report, folder, tmp_path).content
    assert card_fault(content) is None
    for share in range(1, 100):
        assert card_fault(content[: share * len(content) // 100]), share
    assert card_fault(f"{content}\n## Added by hand\n") is None
    assert card_fault(content.replace("## Limits", "## What it cannot do")) is None
