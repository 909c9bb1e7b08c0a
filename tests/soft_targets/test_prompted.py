"""The cache of a teacher behind a prompt: the trainer takes it, and a second call asks nothing."""

import json

import numpy as np
import pytest
import torch

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.soft_targets.prompted import cache_prompted_outputs
from hf_distill.teachers import ServedTeacher
from hf_distill.teachers.prompted import PromptedTeacher
from hf_distill.teachers.prompts import ClassPrompt
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.teachers.serving import characters, classifier, language_model, serve, serving
from tests.teachers.test_prompted import SIMPLE, Limited, classifiers

CLASSES = ("negative", "positive", "neutral")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def rows(number=12):
    made = tiny_rows(number)
    return made.add_column("text", [" ".join(f"w{i - 3}" for i in ids) for ids in made["input_ids"]])


def teacher(server, prompt="How?"):
    served = ServedTeacher("tiny", base_url=server.url, api_key="x", max_retries=0)
    return PromptedTeacher(served, prompt=ClassPrompt(CLASSES, prompt))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        ("float32", 1e-5),
        pytest.param("float16", 2e-3, marks=pytest.mark.served),
        pytest.param("bfloat16", 0.02, marks=pytest.mark.served),
    ],
)
def test_columns_are_the_log_probabilities_in_the_order_of_the_rows(tmp_path, dtype, tolerance):
    model, tokenizer = classifier(CLASSES)
    data = rows()
    expected = classifiers(model, tokenizer, data["text"])
    with serving(serve.ClassifierAnswers(model, tokenizer)) as server:
        made, targets = cache_prompted_outputs(data, teacher(server), output_dir=tmp_path / "cache", dtype=dtype)
        assert made.column_names == [*data.column_names, "teacher_logits"]
        assert targets.counts["asked"] == len(set(data["text"])) == len(server.requests)
        turned = data.select(range(len(data))[::-1])
        again, known = cache_prompted_outputs(turned, teacher(server), output_dir=tmp_path / "cache", dtype=dtype)
        assert len(server.requests) == len(set(data["text"]))
    found = known.log_probabilities[::-1]
    assert targets.log_probabilities == pytest.approx(expected, abs=tolerance)
    assert found == pytest.approx(expected, abs=tolerance) and again["text"] == turned["text"]
    assert (known.method, known.counts, known.notes) == (targets.method, targets.counts, targets.notes)
    record = json.loads((tmp_path / "cache" / "provenance.json").read_text())
    assert record["teacher"]["name"] == "tiny" and record["options"]["temperature"] == 1.0
    assert record["answers"]["method"] == "letters"


def test_a_student_learns_from_them(tmp_path):
    model, tokenizer = classifier(CLASSES)
    with serving(serve.ClassifierAnswers(model, tokenizer)) as server:
        made, _ = cache_prompted_outputs(rows(), teacher(server), output_dir=tmp_path / "cache")
    arguments = DistillationArguments(
        str(tmp_path),
        max_steps=3,
        temperature=1.0,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        hard_label_weight=0.0,
        soft_target_weight=1.0,
        logging_steps=1,
        learning_rate=1e-2,
        save_strategy="no",
    )
    student = tiny_bert(seed=5, num_labels=3)
    trainer = DistillationTrainer(student, arguments, train_dataset=made, data_collator=collate)
    trainer.train()
    losses = [entry["soft_loss"] for entry in trainer.state.log_history if "soft_loss" in entry]
    assert len(losses) == 3 and np.isfinite(losses).all()
    with torch.no_grad():
        batch = collate([made[0]])
        del batch["labels"]
        assert torch.isfinite(student(**batch).logits).all()


def test_rows_without_a_target_are_left_out_and_told(tmp_path, caplog):
    data = rows(6)
    silent = data["text"][2]
    said = lambda prompt, _: "no idea" if f"Text: {silent}\n" in prompt else "neutral"  # noqa: E731
    with serving(Limited(language_model(), characters(), said, ["logprobs", "response_format"]), **SIMPLE) as server:
        made, targets = cache_prompted_outputs(data, teacher(server), output_dir=tmp_path / "cache")
        again, known = cache_prompted_outputs(data, teacher(server), output_dir=tmp_path / "cache")
    kept = [text for text in data["text"] if text != silent]
    assert made["text"] == again["text"] == kept
    assert targets.has_target.tolist() == known.has_target.tolist() == [text != silent for text in data["text"]]
    assert "rows are left out: the teacher's answer names no class" in caplog.text


def test_another_prompt_is_another_cache(tmp_path):
    with serving(serve.ClassifierAnswers(*classifier(CLASSES))) as server:
        cache_prompted_outputs(rows(3), teacher(server), output_dir=tmp_path)
        with pytest.raises(ValueError, match=r"holds the outputs of another pass: options.prompt"):
            cache_prompted_outputs(rows(3), teacher(server, "Else?"), output_dir=tmp_path)
        with pytest.raises(ValueError, match=r"holds the outputs of another pass: rows"):
            cache_prompted_outputs(rows(4), teacher(server), output_dir=tmp_path)
        assert len(server.requests) == 3


def test_bad_columns(tmp_path):
    with serving(serve.ClassifierAnswers(*classifier(CLASSES))) as server:
        with pytest.raises(ValueError, match="text: there is no column 'tweet'"):
            cache_prompted_outputs(rows(3), teacher(server), output_dir=tmp_path, text="tweet")
        made, _ = cache_prompted_outputs(rows(3), teacher(server), output_dir=tmp_path)
        with pytest.raises(ValueError, match="has a column teacher_logits already"):
            cache_prompted_outputs(made, teacher(server), output_dir=tmp_path)


def test_what_is_no_set_of_texts_is_refused(tmp_path):
    data = rows(3)
    with serving(serve.ClassifierAnswers(*classifier(CLASSES))) as server:
        ask = teacher(server)
        with pytest.raises(TypeError, match="a stream has to be loaded first"):
            cache_prompted_outputs(data.to_iterable_dataset(), ask, output_dir=tmp_path)
        with pytest.raises(ValueError, match="has no rows"):
            cache_prompted_outputs(data.select([]), ask, output_dir=tmp_path)
        with pytest.raises(TypeError, match="got int as number 0"):
            cache_prompted_outputs(data, ask, output_dir=tmp_path, text="labels")
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match=r"expected a folder, and .* is a file"):
            cache_prompted_outputs(data, ask, output_dir=tmp_path / "file")
    assert not server.requests
