"""`compare` on tiny models whose answers, sizes and order are known."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification

from hf_distill import measure, plot
from hf_distill.report import Report, compare

VOCABULARY = 40


class Reads(BertForSequenceClassification):
    """A tiny BERT that answers by its first token, as told: even tokens are class 0, odd ones class 1."""

    mistakes = frozenset()

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        output = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        first = input_ids[:, 0]
        wrong = torch.isin(first, torch.tensor(sorted(self.mistakes), dtype=torch.long))
        said = (first % 2).bool() ^ wrong
        logits = torch.nn.functional.one_hot(said.long(), 2) * 4.0 + output.logits * 1e-3
        return type(output)(logits=logits)


def bert(hidden=16, layers=1, cls=BertForSequenceClassification, **config):
    torch.manual_seed(0)
    return cls(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=hidden,
            max_position_embeddings=32,
            **config,
        )
    )


def reader(mistakes=(), **config):
    model = bert(cls=Reads, **config)
    model.mistakes = frozenset(mistakes)
    return model


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measure, "CALLS", 16)
    monkeypatch.setattr(measure, "FEWEST_CALLS", 16)
    monkeypatch.setattr(measure, "THROUGHPUT_ROUNDS", 1)


@pytest.fixture(scope="module")
def dataset():
    generator = np.random.default_rng(0)
    ids = [generator.integers(1, VOCABULARY, size=generator.integers(2, 20)).tolist() for _ in range(200)]
    return Dataset.from_dict(
        {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": [row[0] % 2 for row in ids]}
    )


@pytest.fixture(scope="module")
def labels(dataset):
    return np.array(dataset["labels"][:])


def spoiled(labels, share, seed=1):
    return np.where(np.random.default_rng(seed).random(len(labels)) < share, 1 - labels, labels)


@pytest.fixture(scope="module")
def report(dataset, labels):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "CALLS", 16)
        patch.setattr(measure, "FEWEST_CALLS", 16)
        return compare(
            reader(hidden=32, layers=3),
            reader(mistakes=[2]),
            dataset,
            baseline_model=reader(mistakes=[2, 3, 4, 5, 6]),
            controls={"tfidf": spoiled(labels, 0.3)},
            controls_with_teacher={"tfidf_soft": spoiled(labels, 0.2)},
        )


def test_quality_is_the_share_that_was_planted(report, dataset, labels):
    first = np.array([row[0] for row in dataset["input_ids"]])
    assert report.models["teacher"]["quality"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert report.models["student"]["quality"]["accuracy"]["value"] == pytest.approx((first != 2).mean())
    assert report.controls["tfidf"]["accuracy"]["value"] == pytest.approx((spoiled(labels, 0.3) == labels).mean())
    assert report.controls["majority_class"]["accuracy"]["value"] == pytest.approx(
        max(labels.mean(), 1 - labels.mean())
    )
    for named in (*(model["quality"] for model in report.models.values()), *report.controls.values()):
        for quality in named.values():
            assert quality["low"] <= quality["value"] <= quality["high"]


def test_the_fields_are_those_of_the_contract(report):
    assert set(report.models) == {"teacher", "student", "baseline"}
    for model in report.models.values():
        assert set(model["quality"]) == {"accuracy", "macro_f1"}
        assert isinstance(model["parameters"], int)
        assert isinstance(model["bytes"], int)
        assert 0 < model["latency_ms"]["batch_1"]["p50"] <= model["latency_ms"]["batch_1"]["p95"]
        assert model["throughput"]["batch_32"] > 0
    assert set(report.ratios) == {"quality_kept", "quality_kept_above_chance", "smaller", "lighter", "faster"}
    assert report.controls_with_teacher == ["tfidf_soft"]
    assert {"processor", "threads", "python", "torch", "transformers", "peak_memory_bytes"} <= set(report.environment)


def test_ratios_grow_with_what_is_good(report):
    teacher, student = report.models["teacher"], report.models["student"]
    assert report.ratios["smaller"] == pytest.approx(teacher["parameters"] / student["parameters"], rel=1e-5)
    assert report.ratios["smaller"] > 1
    assert report.ratios["lighter"] == pytest.approx(teacher["bytes"] / student["bytes"], rel=1e-5)
    p50 = [model["latency_ms"]["batch_1"]["p50"] for model in (teacher, student)]
    assert report.ratios["faster"] == pytest.approx(p50[0] / p50[1], rel=1e-4)
    said, taught, chance = (
        quality["accuracy"]["value"]
        for quality in (student["quality"], teacher["quality"], report.controls["majority_class"])
    )
    assert report.ratios["quality_kept"] == pytest.approx(said / taught, rel=1e-5)
    assert report.ratios["quality_kept_above_chance"] == pytest.approx((said - chance) / (taught - chance), rel=1e-4)
    for name, inside in report.ratio_intervals.items():
        assert inside["low"] <= report.ratios[name] <= inside["high"]


def test_sizes_are_those_of_the_saved_file(report, tmp_path):
    reader().save_pretrained(tmp_path)
    assert report.models["student"]["bytes"] == (tmp_path / "model.safetensors").stat().st_size
    assert report.models["student"]["parameters"] == reader().num_parameters()


def test_the_gain_is_over_the_best_control_without_a_teacher(report):
    gain = report.differences["gain_over_best_control"]
    rivals = {name: quality["accuracy"]["value"] for name, quality in report.controls.items() if name != "tfidf_soft"}
    rivals["baseline"] = report.models["baseline"]["quality"]["accuracy"]["value"]
    best = max(rivals, key=rivals.get)
    assert gain["control"] == best == "baseline"
    student = report.models["student"]["quality"]["accuracy"]
    assert gain["value"] == pytest.approx(student["value"] - rivals[best], abs=1e-5)
    # The student is wrong only where the baseline is: paired, there is no doubt, though the two intervals may meet.
    assert gain["low"] > 0
    assert not any("not worth" in warning or "not certain" in warning for warning in report.warnings)


def test_fidelity_is_that_of_the_logits(report):
    assert report.fidelity["examples"] == 200
    assert report.fidelity["agreement"] == pytest.approx(report.models["student"]["quality"]["accuracy"]["value"])
    assert report.fidelity["kl"] > 0


def test_a_weak_student_and_a_weak_teacher_are_flagged(dataset, labels):
    weak = reader(mistakes=range(20))
    report = compare(
        weak,
        weak,
        dataset,
        metrics=["accuracy"],
        controls={"tfidf": spoiled(labels, 0.1)},
        controls_with_teacher={"tfidf_soft": labels},
        teacher_floor=0.9,
    )
    assert report.differences["gain_over_best_control"]["value"] < 0
    for words in ("not worth its teacher", "below its floor of 0.9", "tfidf_soft does at least", "no fewer parameters"):
        assert any(words in warning for warning in report.warnings), words


def test_a_gain_within_chance_is_called_uncertain(dataset, labels):
    almost = labels.copy()
    almost[0] = 1 - almost[0]
    report = compare(reader(), reader(), dataset, metrics=["accuracy"], controls={"almost": almost})
    assert report.differences["gain_over_best_control"]["value"] == pytest.approx(1 / 200)
    assert any("not certain" in warning for warning in report.warnings)


def test_saved_and_loaded_are_equal_and_strict(report, tmp_path):
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == json.loads(text)
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_cannot_hold_nan():
    from hf_distill.report import _plain

    with pytest.raises(ValueError, match="a report cannot hold"):
        _plain({"value": float("nan")})


def test_the_table_has_a_row_for_everything(report):
    table = report.table()
    assert table.row_count == len(report.models) + len(report.controls)
    assert "gain over the best control (baseline)" in table.caption


def test_models_come_back_as_they_were(dataset):
    teacher, student = bert(), bert().train()
    teacher.eval()
    student.bert.eval()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    compare(teacher, student, dataset)
    assert not teacher.training
    assert student.training
    assert not student.bert.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_predictions_do_not_depend_on_the_batch_size(dataset):
    model = measure.Reader(bert(), dataset)
    with model.ready():
        one = measure.predict_logits(model, dataset, name="student", batch_size=1)
        many = measure.predict_logits(model, dataset, name="student", batch_size=64)
        alone = model(model.inputs(dataset, [7])).numpy()
    assert one == pytest.approx(many, abs=1e-6)
    assert one[7] == pytest.approx(alone[0], abs=1e-6)
    assert np.abs(one - one[0]).max() > 1e-4  # or the order would not matter


def test_a_mask_is_made_where_there_is_none(dataset):
    bare = dataset.remove_columns("attention_mask")
    masked, unmasked = measure.Reader(bert(), dataset), measure.Reader(bert(), bare)
    with masked.ready(), unmasked.ready():
        assert np.array_equal(
            measure.predict_logits(masked, dataset, name="student"),
            measure.predict_logits(unmasked, bare, name="student"),
        )


def test_the_teacher_reads_its_own_columns(dataset):
    # In the teacher's columns every text is another one: first token 1, so a perfect reader says class 1.
    own = dataset.add_column("teacher_input_ids", [[1, 2, 3]] * len(dataset))
    report = compare(reader(), reader(), own, metrics=["accuracy"])
    assert report.models["teacher"]["quality"]["accuracy"]["value"] == pytest.approx(np.mean(dataset["labels"][:]))
    assert report.models["teacher"]["tokens_per_text"] == 3
    assert report.models["student"]["quality"]["accuracy"]["value"] == 1


def test_cached_teacher_logits_stand_for_the_teacher(dataset, labels):
    wrong = np.eye(2, dtype=np.float32)[1 - labels]
    cached = dataset.add_column("teacher_logits", wrong.tolist())
    report = compare(reader(), reader(), cached, metrics=["accuracy"])
    assert report.models["teacher"]["quality"]["accuracy"]["value"] == 0
    assert report.fidelity["agreement"] == 0
    assert "quality_kept" not in report.ratios


def test_unlabelled_rows_count_for_fidelity_alone(dataset, labels):
    hidden = np.where(np.arange(200) < 150, -100, labels)
    partly = dataset.remove_columns("labels").add_column("labels", hidden)
    report = compare(reader(), reader(), partly, controls={"all": labels})
    assert (report.examples, report.fidelity["examples"]) == (50, 200)


def test_fidelity_has_its_own_texts(dataset):
    texts = dataset.remove_columns("labels").select(range(40))
    report = compare(reader(), reader(mistakes=[2]), dataset, fidelity_dataset=texts)
    first = np.array([row[0] for row in texts["input_ids"]])
    assert report.fidelity["examples"] == 40
    assert report.fidelity["agreement"] == pytest.approx((first != 2).mean())


def test_an_ensemble_can_be_the_teacher(dataset):
    from hf_distill.teacher import TeacherEnsemble

    member = reader()
    report = compare(TeacherEnsemble([member, reader()]), member, dataset)
    assert report.ratios["smaller"] == pytest.approx(2)
    assert report.models["teacher"]["quality"]["accuracy"]["value"] == 1


def test_multi_label_and_regression_students(dataset, labels):
    rows = dataset.remove_columns("labels")
    many = rows.add_column("labels", [[float(label), 1.0] for label in labels])
    model = bert(problem_type="multi_label_classification")
    report = compare(model, model, many, resamples=100)
    assert report.fidelity == {}
    assert set(report.models["student"]["quality"]) == {"accuracy", "macro_f1"}
    numbers = rows.add_column("labels", labels.astype(float))
    model = bert(num_labels=1)
    report = compare(model, model, numbers, metrics=["pearson"], resamples=100)
    assert set(report.models["student"]["quality"]) == {"pearson"}


def test_metrics_of_logits_leave_out_controls_without_any(dataset, labels):
    report = compare(
        reader(),
        reader(),
        dataset,
        metrics=["accuracy", "calibration_error"],
        controls={"choices": labels, "logits": np.eye(2)[labels] * 9.0},
    )
    assert set(report.controls["choices"]) == {"accuracy"}
    assert set(report.controls["logits"]) == {"accuracy", "calibration_error"}
    assert report.controls["logits"]["accuracy"]["value"] == 1


def test_nan_logits_are_an_error(dataset):
    broken = bert()
    torch.nn.init.constant_(broken.classifier.weight, float("nan"))
    with pytest.raises(ValueError, match="student gives NaN logits on 200 of 200"):
        compare(bert(), broken, dataset)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "translation"}, "text-classification so far, got task='translation'"),
        ({"metrics": ["calibration_error"]}, "has to grow with quality"),
        ({"metrics": ["teacher_kl"]}, "the report has it as fidelity"),
        ({"controls": {"tfidf": [0, 1]}}, "predicts 2 examples, but the test set has 200"),
        ({"controls": {"student": [0] * 200}}, "a name of its own"),
        ({"controls": {"a": [0] * 200}, "controls_with_teacher": {"a": [0] * 200}}, "a name of its own"),
    ],
)
def test_what_does_not_fit_is_refused(dataset, settings, message):
    with pytest.raises(ValueError, match=message):
        compare(bert(), bert(), dataset, **settings)


def test_a_test_set_needs_labels_and_tokens(dataset):
    with pytest.raises(ValueError, match="needs the column `labels`"):
        compare(bert(), bert(), dataset.remove_columns("labels"))
    with pytest.raises(ValueError, match="has a label"):
        compare(bert(), bert(), dataset.remove_columns("labels").add_column("labels", [-100] * 200))
    with pytest.raises(ValueError, match="finds no input_ids"):
        compare(bert(), bert(), dataset.remove_columns("input_ids"))
    with pytest.raises(ValueError, match="the same classes"):
        compare(bert(num_labels=3), bert(), dataset)


def test_labels_of_a_picture_do_not_overlap():
    places = plot.spread([0.3, 0.1, 0.31, 0.305], gap=0.1, low=0.0, high=1.0)
    assert np.diff(sorted(places)).min() >= 0.1 - 1e-9
    assert np.argsort(places).tolist() == np.argsort([0.3, 0.1, 0.31, 0.305]).tolist()
    crowded = plot.spread([0.5] * 30, gap=0.1, low=0.0, high=1.0)
    assert min(crowded) >= 0
    assert max(crowded) <= 1 + 1e-9
    assert plot.spread([], gap=0.1, low=0.0, high=1.0) == []
