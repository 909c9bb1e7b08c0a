"""The card says what the report says, and a push takes along what a user needs and nothing else."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError

from hf_distill import hub
from hf_distill.report import Report


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
    hub.model_card(report, folder, **settings)
    return ModelCard.load(folder / "README.md")


def full(report, folder, tmp_path):
    (folder / "report.png").write_bytes(b"")
    return render(
        report,
        folder,
        teacher_revision="abc123",
        repo_id="me/tweets-lstm",
        license="apache-2.0",
        language="en",
        datasets=["some-user/tweets", str(tmp_path / "more.csv")],
        method={"temperature": 2.0, "output_dir": str(tmp_path)},
        carried={"embeddings.weight": "PCA of the teacher's | 384 to 128"},
        splits={"train": 10_000, "test": 3012},
        reproduce=f"hf-distill run {tmp_path}/recipe.yaml",
    )


def test_metadata_is_what_the_hub_reads(report, folder, tmp_path):
    data = full(report, folder, tmp_path).data
    assert data.base_model == "some-user/some-teacher"
    assert data.license == "apache-2.0"
    assert data.language == "en"
    assert data.datasets == ["some-user/tweets"]
    assert data.pipeline_tag == "text-classification"
    assert data.library_name == "transformers"
    assert data.model_name == "tweets-lstm"
    by_metric = {result.metric_type: result for result in data.eval_results}
    for metric, said in report.models["student"]["quality"].items():
        assert by_metric[metric].metric_value == said["value"]
        assert str(said["low"]) in by_metric[metric].metric_name
        assert str(said["high"]) in by_metric[metric].metric_name
        assert by_metric[metric].dataset_type == "some-user/tweets"


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


def test_the_card_says_how_to_use_and_remake_the_student(report, folder, tmp_path):
    text = full(report, folder, tmp_path).text
    assert 'pipeline("text-classification", "me/tweets-lstm", trust_remote_code=True)' in text
    assert "hf-distill run recipe.yaml" in text
    assert "Classes: negative, positive." in text
    assert "revision `abc123`" in text
    assert "The student is only an example." in text
    assert "## Limits" in text
    assert "@article{hinton2015distilling" in text
    assert "![Quality against latency](report.png)" in text
    assert "10,000 train, 3,012 test" in text
    assert r"PCA of the teacher's \| 384 to 128" in text


def test_an_example_may_hold_quotes_and_line_breaks(report, folder):
    text = render(report, folder, example='She said\n"fine" \\o/').text
    assert "\n" + r'classify("She said \"fine\" \\o/")' + "\n" in text


def test_no_template_marks_blank_runs_or_paths_are_left(report, folder, tmp_path):
    content = full(report, folder, tmp_path).content
    assert "{{" not in content
    assert "{%" not in content
    assert "\n\n\n" not in content
    assert str(tmp_path) not in content
    assert not re.search(r"(?<![\w:/.])/(home|tmp|root|work|Users)\b", content)
    # Every table stands on its own and every row has as many cells as its header.
    for table in re.findall(r"(?:^\|.*\n)+", content, flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_a_local_teacher_is_no_base_model(report, folder, tmp_path):
    teacher = tmp_path / "fine-tuned"
    teacher.mkdir()
    card = render(report, folder, teacher=str(teacher), teacher_revision="abc123")
    assert card.data.base_model is None
    assert "`fine-tuned`" in card.text
    assert "abc123" not in card.text
    assert str(tmp_path) not in card.content


def test_a_standard_student_needs_no_remote_code(report, folder):
    (folder / "config.json").write_text("{}")
    text = render(report, folder).text
    assert 'pipeline("text-classification", "student")' in text
    assert "trust_remote_code" not in text


def test_a_report_without_baseline_and_controls_has_a_card(report, folder):
    bare = replace(
        report,
        models={name: report.models[name] for name in ("teacher", "student")},
        controls={},
        controls_with_teacher=[],
        differences={},
        fidelity={},
        ratio_intervals={},
        warnings=[],
    )
    card = render(bare, folder)
    assert "There is no baseline" in card.text
    assert "Gain over" not in card.text
    assert "Read this first" not in card.text
    assert "\n\n\n" not in card.content
    assert len(card.data.eval_results) == 2


def test_paths_are_told_from_other_slashes():
    assert hub.without_folders("km/h, 1 / 2, https://a.org/b/c, a/b.csv") == "km/h, 1 / 2, https://a.org/b/c, a/b.csv"
    assert hub.without_folders("--data=/srv/x/y.csv '~/a/b' C:\\Users\\me\\z.txt") == "--data=y.csv 'b' z.txt"


@pytest.fixture
def api(monkeypatch):
    """The two calls a push makes, recorded."""
    calls = SimpleNamespace(made=[], committed=[])

    def create_repo(self, repo_id, **settings):
        calls.made.append((repo_id, settings))

    def create_commit(self, repo_id, operations, **settings):
        calls.committed.append((repo_id, [operation.path_in_repo for operation in operations]))
        return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    return calls


def test_a_push_is_one_commit_of_what_a_user_needs(report, folder, api):
    render(report, folder)
    wanted = ["README.md", "config.json", "model.safetensors", "modeling_lstm.py", "onnx/model.onnx", "tokenizer.json"]
    left = [
        "_bridge.safetensors",
        ".secret",
        "onnx/_draft.onnx",
        "__pycache__/modeling_lstm.pyc",
        "checkpoint-10/model.safetensors",
        "last-checkpoint/model.safetensors",
        "cache/data-0.arrow",
        "runs/events.machine",
        "training_args.bin",
        "optimizer.pt",
    ]
    for name in [*wanted[2:], *left]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert hub.push(folder, "me/s", private=True) == "https://hub/commit/1"
    assert api.made == [("me/s", {"private": True, "exist_ok": True})]
    assert api.committed == [("me/s", wanted)]


def test_an_unfinished_folder_is_refused_before_anything_is_made(folder, api):
    with pytest.raises(ValueError, match=r"model\.safetensors, README\.md is missing"):
        hub.push(folder, "me/s")
    assert api.made == []


def answered(status, **headers):
    response = httpx2.Response(status, headers=headers, request=httpx2.Request("POST", "https://hub/api/commit"))
    return HfHubHTTPError("five\nlines", response=response)


def wrapped(error):
    """As huggingface_hub hands on the error of one file."""
    failed = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    failed.__cause__ = error
    return failed


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (answered(401), r"me/s: the Hub answered 401: the token is missing, wrong or expired\. Log in .*HF_TOKEN\."),
        (answered(403, **{"X-Error-Message": "No"}), r"me/s: the Hub answered 403 \(No\): the token may not .*\."),
        (answered(418), r"me/s: the Hub answered 418\."),
        (answered(503), r"me/s: the Hub answered 503: an error of the Hub, .*"),
        (wrapped(answered(429)), r"me/s: the Hub answered 429: too many requests\. .*"),
        (httpx2.ReadError("cut\noff"), r"me/s: the connection to the Hub failed \(cut off\)\. Push again: .*"),
        (wrapped(httpx2.ReadError("")), r"me/s: the connection to the Hub failed \(ReadError\)\. Push again: .*"),
    ],
)
def test_a_refused_push_is_told_in_one_line(report, folder, api, monkeypatch, error, line):
    def create_commit(self, *arguments, **settings):
        raise error

    render(report, folder)
    (folder / "model.safetensors").write_text("x")
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    with pytest.raises(OSError, match="me/s") as caught:
        hub.push(folder, "me/s")
    assert re.fullmatch(line, str(caught.value))
