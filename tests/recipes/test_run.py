"""A whole run on a small real path: a teacher is trained, a student distilled, measured, saved and loaded elsewhere."""

import csv
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, set_seed

from hf_distill.cli import main
from hf_distill.environment import has_fast_bf16, summary

GOOD, BAD = "fine great lovely nice superb".split(), "awful bad dull poor sad".split()
FILLER = "a and but food it place room service so staff the very view was with".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_reviews(path: Path, number: int = 700) -> None:
    """Reviews whose label is the majority of their good and bad words; every third row has none."""
    generator = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(number):
            good = int(generator.integers(0, 4))
            bad = 3 - good
            words = [*generator.choice(GOOD, good), *generator.choice(BAD, bad), *generator.choice(FILLER, 6)]
            label = ("good" if good > bad else "bad") if row % 3 else "unknown"
            writer.writerow([" ".join(generator.permutation(words)), label])


def write_teacher(folder: Path, **config) -> None:
    folder.mkdir()
    letters = sorted({letter for word in GOOD + BAD + FILLER for letter in word})
    vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *GOOD, *BAD, *FILLER]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    set_seed(0)
    BertForSequenceClassification(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            initializer_range=0.1,
            **{"max_position_embeddings": 64, **config},
        )
    ).save_pretrained(folder)


def recipe(folder: Path, **changes) -> Path:
    content = {
        "task": "text-classification",
        "output_dir": str(folder / "out"),
        "data": {
            "path": str(folder / "reviews.csv"),
            "labels": ["bad", "good"],
            "test": 100,
            "validation": 60,
            "fidelity": 40,
        },
        "teacher": {
            "model": str(folder / "teacher"),
            "floor": 1.01,
            "fine_tune": {"num_train_epochs": 12, "learning_rate": 2.0e-3, "per_device_train_batch_size": 16},
        },
        "student": {"vocab_size": 120, "config": {"embedding_size": 8, "hidden_size": 8}},
        "distill": [
            {
                "num_train_epochs": 2,
                "hard_label_weight": 0.0,
                "soft_target_weight": 0.0,
                "matching": [{"kind": "hidden_state", "layers": {-1: -1}, "granularity": "sequence"}],
                "disable_tqdm": True,
            },
            {"num_train_epochs": 4, "learning_rate": 1.0e-2, "disable_tqdm": True},
        ],
        "compare": {"resamples": 200},
        "export": {"onnx": True},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            content[section] = {**content[section], key: value}
        else:
            content[section] = value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run in `out`."""
    folder = tmp_path_factory.mktemp("run")
    write_reviews(folder / "reviews.csv")
    write_teacher(folder / "teacher")
    assert main(["run", str(recipe(folder))]) == 0
    return folder


def test_the_layout_and_the_report(finished):
    out = finished / "out"
    for name in (
        "teacher/model.safetensors",
        "cache/provenance.json",
        "student/config.json",
        "student/model.safetensors",
        "student/tokenizer.json",
        "student/modeling_lstm.py",
        "student/onnx/model.onnx",
        "student/runtime.py",
        "student/onnx/model_quantized.onnx",
        "student/README.md",
        "baseline/model.safetensors",
        "report.json",
        "report.png",
        "recipe.yaml",
    ):
        assert (out / name).is_file(), name
    report = json.loads((out / "report.json").read_text())
    quality = {name: model["quality"]["accuracy"]["value"] for name, model in report["models"].items()}
    assert quality["teacher"] > 0.9
    assert quality["student"] > 0.8
    assert set(report["controls"]) >= {
        "majority_class",
        "tfidf_logistic_regression",
        "self_training",
        "teacher_hard_labels",
        "tfidf_on_teacher_soft_labels",
    }
    assert set(report["controls_with_teacher"]) == {"teacher_hard_labels", "tfidf_on_teacher_soft_labels"}
    assert report["ratios"]["quality_kept"] == pytest.approx(quality["student"] / quality["teacher"], abs=1e-5)
    assert {"value", "low", "high"} <= set(report["differences"]["gain_over_best_control"])
    assert report["run"]["rows"]["unlabelled"] > 100
    assert report["run"]["peak_memory_bytes"] > 1e8
    assert set(report["run"]["seconds"]) == {
        "teacher",
        "cache",
        "initialize",
        "distill",
        "export",
        "controls",
        "seeds",
        "compare",
    }
    # The floor was set out of reach: the report must say so.
    assert any("floor" in warning or "weak" in warning for warning in report["warnings"])
    assert not list(out.glob("**/checkpoint-*"))


def test_the_card_tells_the_report(finished):
    card = ModelCard.load(finished / "out" / "student" / "README.md")
    report = json.loads((finished / "out" / "report.json").read_text())
    result = next(result for result in card.data.eval_results if result.metric_type == "accuracy")
    assert result.metric_value == report["models"]["student"]["quality"]["accuracy"]["value"]
    assert str(finished) not in str(card)
    assert card.data.base_model is None  # a folder is nobody's model on the Hub


@pytest.mark.long
def test_the_student_loads_where_the_package_is_missing(finished, tmp_path):
    script = """
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "hf_distill":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Missing())
        from transformers import pipeline

        classify = pipeline("text-classification", sys.argv[1], trust_remote_code=True, device="cpu")
        print(classify(["it was a lovely and superb place", "the staff was awful and dull"]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(finished / "out" / "student")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean_environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "'good'" in done.stdout.split("}")[0]
    assert "'bad'" in done.stdout.split("}")[1]


def clean_environment(folder: Path) -> dict[str, str]:
    import os

    return {**os.environ, "HF_HOME": str(folder), "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}


def test_what_is_done_is_skipped(finished, capsys):
    out = finished / "out"
    weights = {path: path.stat().st_mtime_ns for path in out.glob("**/model.safetensors")}
    report = (out / "report.json").read_text()
    capsys.readouterr()
    assert main(["run", str(recipe(finished))]) == 0
    told = capsys.readouterr().err
    first = told.split(" runs ")[0]
    assert "text-classification: " in first and summary(has_fast_bf16()).partition(";")[0] in " ".join(first.split())
    assert "torch " in first
    assert told.count("done before") == 9 and "test examples" in told and "gain over the best control" in told
    assert f"The student is in {out}/student" in told and f"hf-distill push {out}/student --repo-id" in told
    assert {path: path.stat().st_mtime_ns for path in out.glob("**/model.safetensors")} == weights
    assert (out / "report.json").read_text() == report
    assert main(["run", str(recipe(finished)), "--compare.resamples", "100"]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("**/model.safetensors")} == weights
    again, before = json.loads((out / "report.json").read_text()), json.loads(report)
    assert again != before
    assert (
        again["models"]["student"]["quality"]["accuracy"]["value"]
        == before["models"]["student"]["quality"]["accuracy"]["value"]
    )


@pytest.mark.long
def test_results_that_are_gone_or_replaced_are_made_again(tmp_path):
    """A step is done where its result is there and nothing before it ran since."""
    write_reviews(tmp_path / "reviews.csv", 400)
    write_teacher(tmp_path / "teacher")
    quick = {"num_train_epochs": 1, "disable_tqdm": True}
    compare = {"controls": False, "resamples": 20, "detailed_costs": False}
    path = str(recipe(tmp_path, compare=compare, distill=quick, teacher__fine_tune=quick))
    student = tmp_path / "out" / "student"
    assert main(["run", path]) == 0
    before = load_file(student / "model.safetensors")
    assert main(["run", path, "--distill.temperature", "5", "--only", "distill"]) == 0
    assert not (student / "README.md").exists()
    assert main(["run", path]) == 0
    assert (student / "README.md").exists()
    assert (student / "onnx" / "model.onnx").exists()
    after = load_file(student / "model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    (student / "model.safetensors").unlink()
    assert main(["run", path]) == 0
    assert (student / "model.safetensors").exists()


@pytest.mark.faults
def test_killed_run_ends_like_the_one_that_was_not(finished, tmp_path):
    """SIGKILL in the middle of the distillation; the next run goes on from the checkpoint and gives the same bits."""
    (tmp_path / "teacher").symlink_to(finished / "teacher")
    (tmp_path / "reviews.csv").symlink_to(finished / "reviews.csv")
    path = recipe(tmp_path, compare={"controls": False, "resamples": 100, "detailed_costs": False})
    process = subprocess.Popen([sys.executable, "-m", "hf_distill", "run", str(path)], stderr=subprocess.PIPE)
    while not list((tmp_path / "out" / ".work").glob("student-1/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (tmp_path / "out" / "student").exists()
    assert main(["run", str(path), "--only", "distill"]) == 0
    left, right = (load_file(folder / "out" / "student" / "model.safetensors") for folder in (finished, tmp_path))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.text", "review"], "data.text: there is no column 'review', the data has text, label"),
        (["--data.labels", "[bad, good, awful]", "--teacher.fine_tune", "null"], "the classes of the teacher are"),
        (["--data.test", "100000"], "data.test: asked for 100000 rows with a label"),
        (["--teacher.fine_tune.temperature", "-1"], "temperature must be a finite number > 0, got -1"),
        (["--student.config.hidden_size", "-3"], "hidden_size"),
        (["--compare.metrics", "[acuracy]"], "acuracy"),
        (["--only", "destill"], "only: expected one of teacher, cache"),
        (["--data.pth", "x"], "unknown key 'data.pth'. Did you mean path?"),
    ],
)
def test_bad_input_stops_before_any_step(finished, capsys, words, message):
    out = finished / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert main(["run", str(recipe(finished)), *words]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_a_trained_teacher_and_a_transformer_student(finished, tmp_path):
    """The teacher is used as it is; the student is cut from it and reads with its tokenizer."""
    (tmp_path / "reviews.csv").symlink_to(finished / "reviews.csv")
    path = recipe(
        tmp_path,
        teacher={"model": str(finished / "out" / "teacher")},
        student={"kind": "transformer", "vocab_size": None, "config": {"num_hidden_layers": 1}},
        compare={"controls": False, "resamples": 100, "detailed_costs": False},
        distill={"num_train_epochs": 2, "disable_tqdm": True},
    )
    assert main(["run", str(path)]) == 0
    out = tmp_path / "out"
    assert not (out / "teacher").exists()
    report = json.loads((out / "report.json").read_text())
    assert report["models"]["student"]["quality"]["accuracy"]["value"] > 0.8
    config = json.loads((out / "student" / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("bert", 1)
    assert [path.name for path in (out / "student").glob("*.py")] == ["runtime.py"]


def test_folders_of_something_else_are_not_replaced(finished, tmp_path, capsys):
    (tmp_path / "out" / "student").mkdir(parents=True)
    (tmp_path / "out" / "student" / "thesis.tex").write_text("years of work")
    (tmp_path / "reviews.csv").symlink_to(finished / "reviews.csv")
    (tmp_path / "teacher").symlink_to(finished / "teacher")
    assert main(["run", str(recipe(tmp_path))]) == 1
    assert "has student/thesis.tex already, not from a run of a recipe" in capsys.readouterr().err
    assert (tmp_path / "out" / "student" / "thesis.tex").exists()


def test_distill_without_listening_is_refused(finished, capsys):
    path = recipe(finished, distill={"soft_target_weight": 0.0})
    assert main(["run", str(path)]) == 1
    assert "so the student would learn nothing from its teacher" in capsys.readouterr().err
