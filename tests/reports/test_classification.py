"""`compare` on tiny models whose answers, sizes and order are known."""

import ast
import dataclasses
import inspect
import io
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from rich.console import Console
from scipy.stats import binomtest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from hf_distill import cache_teacher_outputs, export_onnx
from hf_distill.evaluation import predictor
from hf_distill.reports.card import model_card
from hf_distill.reports.classification import compare
from hf_distill.reports.comparison import Comparison
from hf_distill.reports.report import Report
from tests.conftest import tiny_bert

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
    exact = binomtest(200, 200).proportion_ci(method="exact").low
    assert report.models["teacher"]["quality"]["accuracy"] == pytest.approx(
        {"value": 1, "low": exact, "high": 1}, abs=1e-5
    )
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
    kept, sizes = {"quality_kept", "quality_kept_above_chance"}, {"smaller", "lighter", "fewer_flops"}
    assert set(report.ratios) == kept | sizes | {"faster", "throughput"}
    assert set(report.ratio_intervals) >= {"faster", "throughput"}
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
    controls = {name: quality["accuracy"]["value"] for name, quality in report.controls.items() if name != "tfidf_soft"}
    controls["baseline"] = report.models["baseline"]["quality"]["accuracy"]["value"]
    best = max(controls, key=controls.get)
    assert gain["control"] == best == "baseline"
    student = report.models["student"]["quality"]["accuracy"]
    assert gain["value"] == pytest.approx(student["value"] - controls[best], abs=1e-5)
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


def test_a_weak_baseline_is_flagged(dataset, labels):
    strong = {"tfidf": spoiled(labels, 0.02)}
    report = compare(reader(), reader(), dataset, baseline_model=reader(mistakes=range(20)), controls=strong)
    lead = report.differences["baseline_over_best_other_control"]
    assert lead["control"] == "tfidf"
    assert lead["high"] < 0
    assert any("a weak one" in warning for warning in report.warnings)
    fair = compare(reader(), reader(), dataset, baseline_model=reader(mistakes=[2]), controls=strong)
    assert not any("a weak one" in warning for warning in fair.warnings)


def test_texts_that_were_trained_on_are_flagged(dataset):
    texts = [f"text number {chr(97 + row // 26)}{chr(97 + row % 26)}" for row in range(200)]
    planted = [f"RT @me: {text.upper()}! http://t.co/{row}" for row, text in enumerate(texts[:7])]
    training = ["something else", *planted]
    report = compare(reader(), reader(), dataset, metrics=["accuracy"], texts=texts, training_texts=training)
    assert report.warnings[0].startswith("Of 200 test texts 7 (3.5%) stand in the training texts too, or nearly so")
    clean = compare(reader(), reader(), dataset, metrics=["accuracy"], texts=texts, training_texts=training[:1])
    assert not any("training texts" in warning for warning in clean.warnings)
    with pytest.raises(ValueError, match="give those as texts"):
        compare(reader(), reader(), dataset, training_texts=training)


def test_speed_is_told_by_batch_and_length(report, dataset):
    cells = {(row["model"], row["batch"], row["length"]): row for row in report.speed}
    lengths = ("short", "medium", "long")
    assert set(cells) == {(n, b, length) for n in ("teacher", "student") for b in (1, 8, 32) for length in lengths}
    assert all(row["runtime"] == "torch" for row in report.speed)
    ends = [cells["student", 1, length]["tokens"] for length in lengths]
    assert ends[0][0] <= ends[0][1] <= ends[1][0] <= ends[1][1] <= ends[2][0] <= ends[2][1]
    for row in report.speed:
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["per_second"] == pytest.approx(1000 * row["batch"] / row["p50_ms"], rel=1e-4)
        if row["model"] == "student":
            said = row["faster"]
            teachers = cells["teacher", row["batch"], row["length"]]["p50_ms"]
            assert said["value"] == pytest.approx(teachers / row["p50_ms"], rel=1e-4)
            assert said["low"] <= said["value"] <= said["high"]


def test_operations_are_counted(report):
    """The closed form of a BERT is in `tests/evaluation/test_cost.py`.

    Here the teacher has three layers of twice the width.
    """
    teacher, student = (report.models[name] for name in ("teacher", "student"))
    assert report.ratios["fewer_flops"] == pytest.approx(teacher["flops_per_text"] / student["flops_per_text"], 1e-4)
    assert 8 < report.ratios["fewer_flops"] < 12
    # Attention apart, 2 operations a weight of a layer; six matrices of 16 × 16 in a layer.
    assert student["flops_per_token"] > 2 * 6 * 16 * 16


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
    assert list(json.loads(text)) == [each.name for each in dataclasses.fields(Report)]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_cannot_hold_nan():
    from hf_distill.reports.report import plain

    with pytest.raises(ValueError, match="a report cannot hold"):
        plain({"value": float("nan")})


def test_the_table_has_a_row_for_everything(report):
    table = report.table()
    assert table.row_count == len(report.models) + len(report.controls)
    assert "gain over the best control (baseline)" in table.caption
    assert "saved against the best control" in replace(report, metrics=["bits_per_byte"]).table().caption


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
    model = predictor.Predictor(bert(), dataset)
    with model.ready():
        one = predictor.predict_logits(model, dataset, name="student", batch_size=1)
        many = predictor.predict_logits(model, dataset, name="student", batch_size=64)
        alone = model(model.inputs(dataset, [7])).numpy()
    assert one == pytest.approx(many, abs=1e-6)
    assert one[7] == pytest.approx(alone[0], abs=1e-6)
    assert np.abs(one - one[0]).max() > 1e-4  # or the order would not matter


def test_a_mask_is_made_where_there_is_none(dataset):
    bare = dataset.remove_columns("attention_mask")
    masked, unmasked = predictor.Predictor(bert(), dataset), predictor.Predictor(bert(), bare)
    with masked.ready(), unmasked.ready():
        assert np.array_equal(
            predictor.predict_logits(masked, dataset, name="student"),
            predictor.predict_logits(unmasked, bare, name="student"),
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
    from hf_distill.teachers.ensemble import TeacherEnsemble

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
        ({"task": "translation"}, "got task='translation'. For models that write there are compare_translation"),
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


def test_errors_are_what_is_missing(dataset):
    report = compare(reader(mistakes=[2]), reader(mistakes=[2, 3]), dataset)
    first = np.array([row[0] for row in dataset["input_ids"]])
    wrong = [(first == 2).sum(), np.isin(first, [2, 3]).sum()]
    assert report.errors["teacher"]["value"] == pytest.approx(wrong[0] / 200, rel=1e-4)
    ratio = report.errors["error_ratio"]
    assert ratio["value"] == pytest.approx(wrong[1] / wrong[0], rel=1e-4)
    if "low" in ratio:
        assert 1 <= ratio["low"] <= ratio["value"] <= ratio["high"]
    # A teacher without an error leaves nothing to divide by, and a correlation is no share.
    assert set(compare(reader(), reader(mistakes=[2]), dataset).errors) == {"teacher", "student"}
    numbers = dataset.remove_columns("labels").add_column("labels", np.arange(200.0))
    assert compare(bert(num_labels=1), bert(num_labels=1), numbers, metrics=["pearson"], resamples=20).errors == {}


def test_further_test_sets_have_quality_too(dataset):
    hard = dataset.filter(lambda row: row["input_ids"][0] in (2, 3, 4))
    report = compare(
        reader(), reader(mistakes=[2]), dataset, baseline_model=reader(mistakes=[2, 3]), test_sets={"hard": hard}
    )
    found = report.test_sets["hard"]
    first = np.array([row[0] for row in hard["input_ids"]])
    assert found["examples"] == len(hard)
    for name, mistakes in (("teacher", []), ("student", [2]), ("baseline", [2, 3])):
        quality = found[name]["quality"]["accuracy"]
        assert quality["value"] == pytest.approx((~np.isin(first, mistakes)).mean(), abs=1e-5)
        assert quality["low"] <= quality["value"] <= quality["high"]
    with pytest.raises(ValueError, match="column `labels` of hard"):
        compare(reader(), reader(), dataset, test_sets={"hard": hard.remove_columns("labels")})


def test_several_seeds_widen_the_claim(dataset):
    first = np.array([row[0] for row in dataset["input_ids"]])
    mistakes = [(seed, [*seed, 3, 5, 7]) for seed in ([2], [2, 4, 6, 8], [])]
    pairs = [tuple(reader(mistakes=wrong) for wrong in pair) for pair in mistakes]
    alone = compare(reader(), pairs[0][0], dataset, baseline_model=pairs[0][1])
    report = compare(
        reader(), pairs[0][0], dataset, baseline_model=pairs[0][1], more_students=pairs[1:], detailed_costs=False
    )
    assert report.speed == [] and report.ratios["faster"] > 0
    assert (alone.seeds, report.seeds) == (1, 3)
    student, before = (one.models["student"]["quality"]["accuracy"] for one in (report, alone))
    values = [(~np.isin(first, wrong)).mean() for wrong, _ in mistakes]
    assert student["values"] == pytest.approx(values, abs=1e-5)
    assert student["value"] == pytest.approx(np.mean(values), abs=1e-5)
    assert student["high"] - student["low"] > before["high"] - before["low"]
    assert set(report.models) == {"teacher", "student", "baseline"}
    assert set(report.controls) == {"majority_class"}
    # Each seed gains the same over its own baseline, so seeds add no doubt to that, unlike to the quality.
    gain = report.differences["gain_over_best_control"]
    assert gain["value"] == pytest.approx(np.isin(first, [3, 5, 7]).mean(), abs=1e-5)
    assert gain["low"] > 0
    assert gain["high"] - gain["low"] < (student["high"] - student["low"]) / 2
    assert report.ratios["quality_kept"] == pytest.approx(np.mean(values), abs=1e-5)
    with pytest.raises(ValueError, match="its baseline or none"):
        compare(reader(), reader(), dataset, more_students=[(reader(), reader())])


def test_calibration_is_reported_of_all_with_logits(dataset, labels):
    report = compare(
        reader(), reader(mistakes=[2]), dataset, controls={"sure": np.eye(2)[labels] * 50.0}, metrics=["accuracy"]
    )
    assert set(report.calibration) == {"teacher", "student", "sure"}
    assert report.calibration["sure"] == pytest.approx(0, abs=1e-6)
    assert report.calibration["teacher"] == pytest.approx(1 - 1 / (1 + np.exp(-4)), abs=1e-3)


def test_breakdowns_are_by_length_class_and_what_the_user_gives(dataset):
    first = np.array([row[0] for row in dataset["input_ids"]])
    lengths = np.array([len(row) for row in dataset["input_ids"]])
    report = compare(
        reader(), reader(mistakes=[2]), dataset, groups={"small": first < 10}, texts=[str(row) for row in first]
    )
    assert report.breakdown["small"]["True"]["examples"] == (first < 10).sum()
    quarters = report.breakdown["length"]
    assert sum(part["examples"] for part in quarters.values()) == 200
    low, high = map(int, min(quarters).removesuffix(" tokens").split("-"))
    assert low == lengths.min()
    shortest = first[lengths <= high]
    assert quarters[min(quarters)]["student"]["accuracy"] == pytest.approx((shortest != 2).mean(), abs=1e-5)
    assert report.per_class["LABEL_0"]["support"] == (first % 2 == 0).sum()
    assert report.per_class["LABEL_0"]["student"]["precision"] == 1
    assert all(row["text"] == "2" for row in report.most_different[: min(10, (first == 2).sum())])


def test_reports_with_fewer_fields_are_still_read(tmp_path):
    kept = Path(__file__).parents[2] / "model_cards" / "tweet-sentiment-lstm" / "report.json"
    content = json.loads(kept.read_text(encoding="utf-8"))
    first = ("task", "metrics", "examples", "models", "controls", "controls_with_teacher", "ratios", "differences")
    (tmp_path / "report.json").write_text(json.dumps({name: content[name] for name in first}), encoding="utf-8")
    report = Report.load(tmp_path)
    assert report.models["student"]["quality"] == content["models"]["student"]["quality"]
    assert (report.seeds, report.errors, report.words) == (1, {}, {})
    assert report.table().row_count == 8


def test_a_teacher_of_other_classes_is_only_timed(dataset):
    report = compare(bert(num_labels=3), reader(), dataset, metrics=["accuracy"], resamples=20)
    assert report.models["teacher"]["quality"] == {}
    assert report.fidelity == {}
    assert report.errors == {}
    assert "quality_kept" not in report.ratios
    assert report.ratios["faster"] > 0
    assert "The teacher's quality and the student's fidelity to it were not measured" in report.warnings[0]
    assert 0 <= report.models["student"]["quality"]["accuracy"]["value"] <= 1


def test_cached_logits_in_one_set_only_are_refused_where_the_classes_differ(dataset):
    cached = dataset.add_column("teacher_logits", np.zeros((len(dataset), 2)).tolist())
    with pytest.raises(ValueError, match="more lacks the column teacher_logits that the other sets have"):
        compare(bert(num_labels=3), reader(), cached, metrics=["accuracy"], test_sets={"more": dataset})


@pytest.mark.parametrize("dtype", ["int8", "bfloat16", "float16"])
def test_a_compressed_cache_says_what_the_teacher_said(dataset, dtype, tmp_path):
    teacher = bert().eval()
    made = cache_teacher_outputs(dataset, teacher, task="text-classification", output_dir=tmp_path, dtype=dtype)
    reports = [compare(teacher, reader(), rows, metrics=["accuracy"], resamples=20) for rows in (dataset, made)]
    live, cached = (report.fidelity["kl"] for report in reports)
    assert cached == pytest.approx(live, rel=0.02)


def test_f1_is_about_two_classes(dataset):
    with pytest.raises(ValueError, match="there are 3 classes"):
        compare(bert(num_labels=3), bert(num_labels=3), dataset, metrics=["f1"])


def test_a_comparison_has_the_arguments_of_compare():
    """`compare` hands its arguments on by their names."""
    assert list(inspect.signature(compare).parameters) == [field.name for field in fields(Comparison)]


@pytest.mark.parametrize("folder", ["reports", "evaluation", "hub"])
def test_no_function_has_more_than_eighty_lines(folder):
    for file in (Path(__file__).parents[2] / "hf_distill" / folder).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{file.name}: {node.name}"


# Small and odd data


def printed(report):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.table())
    return console.export_text()


def test_the_majority_class_is_that_of_the_training(dataset, labels):
    rare = int(np.bincount(labels).argmin())
    training = [rare] * 3 + [1 - rare, -100, -100]
    found = [
        compare(reader(), reader(mistakes=[2]), dataset, metrics=["accuracy"], **settings)
        for settings in (
            {"training_labels": training},
            {"controls": {"majority_class": np.full(200, rare)}},
            {"controls": {"majority_class": np.full(200, rare)}, "training_labels": [1 - rare]},  # as it was given
        )
    ]
    for report in found:
        assert report.controls["majority_class"]["accuracy"]["value"] == pytest.approx((labels == rare).mean())
        assert report.ratios["quality_kept_above_chance"] == found[0].ratios["quality_kept_above_chance"]
    assert compare(reader(), reader(), dataset).controls["majority_class"]["accuracy"]["value"] == pytest.approx(
        max(labels.mean(), 1 - labels.mean())
    )


@pytest.mark.parametrize("given", [[0, 1, 2], [0.5], [-100], [], ["good"], [-1]])
def test_training_labels_are_class_numbers(dataset, given):
    with pytest.raises(ValueError, match="training_labels: expected class numbers from 0 to 1"):
        compare(reader(), reader(), dataset, training_labels=given)


def test_a_ratio_over_a_margin_that_may_be_nothing_is_not_printed(dataset, labels):
    """A teacher a hair above the majority class would make the student keep many times its quality."""
    share = labels.mean()
    majority = {"majority_class": np.full(200, int(share >= 0.5))}
    weak = reader(mistakes=range(1, 19))  # wrong on about half of the texts
    report = compare(weak, reader(), dataset, metrics=["accuracy"], controls=majority)
    assert "quality_kept" in report.ratios
    assert "quality_kept_above_chance" not in report.ratios
    strong = compare(reader(), reader(mistakes=[2]), dataset, metrics=["accuracy"], controls=majority)
    assert 0.8 < strong.ratios["quality_kept_above_chance"] < 1


def test_two_perfect_models_on_few_rows_are_no_proof(dataset, labels):
    few = dataset.select(range(12))
    report = compare(
        reader(hidden=32),
        reader(),
        few,
        metrics=["accuracy", "macro_f1"],
        controls={"right": labels[:12]},
        validation_rows=1,
    )
    for metric in ("accuracy", "macro_f1"):
        quality = report.models["student"]["quality"][metric]
        assert quality["value"] == quality["high"] == 1 and 0.4 < quality["low"] < 0.8
    gain = report.differences["gain_over_best_control"]
    assert gain["value"] == 0 and gain["low"] == -gain["high"] < -0.2
    kept = report.ratio_intervals["quality_kept"]
    assert kept["low"] < 0.8 and kept["high"] > 1.2
    assert report.warnings[0].startswith("Only 12 labelled rows in the test set: fewer than 100")
    assert report.warnings[1].startswith("Only 1 labelled validation row: with fewer than 30")
    assert report.warnings[2].startswith("The teacher is no better than right, which needs no teacher")
    text = printed(report)
    assert text.index("! Only 12 labelled") < text.index("! Only 1 labelled") < text.index("parameters")
    assert "1.0000 ≥0.7" in text and "±0.000" not in text
    dim = [part for part in report.table().title.spans if "dim" in str(part.style)]
    assert not dim and "yellow" in str(report.table().title.spans[0].style)


def test_enough_rows_and_a_good_teacher_are_no_warning(report):
    assert [told for told in report.warnings if "no faster than" not in told] == []  # which is a measurement
    assert report.differences["teacher_over_best_control"]["control"] == "baseline"


def test_further_small_sets_are_told(dataset):
    report = compare(reader(), reader(), dataset, metrics=["accuracy"], test_sets={"news": dataset.select(range(99))})
    assert report.warnings[0].startswith("Only 99 labelled rows in news")


# From text to label


def words_tokenizer(**settings):
    """Reads "w7 w12" as the tokens 7 and 12."""
    backend = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w0", unk_token="w0", **settings)


def spelled(dataset):
    return [" ".join(f"w{number}" for number in row) for row in dataset["input_ids"]]


def test_times_with_tokenization_are_measured_for_every_model(dataset, tmp_path):
    tokenizer = words_tokenizer()
    settings = {"teacher_processing_class": tokenizer, "student_processing_class": tokenizer, "metrics": ["accuracy"]}
    student = tiny_bert(num_labels=2)
    student.save_pretrained(tmp_path)
    export_onnx(student, tmp_path, tokenizer=tokenizer)
    compared = (reader(hidden=32, layers=3), student, dataset)
    report = compare(*compared, baseline_model=reader(), raw_texts=spelled(dataset), onnx=tmp_path, **settings)
    runtimes = [each["runtime"] for each in report.onnx.values()]
    for measured in (*report.models.values(), *report.onnx.values(), *runtimes):
        times = measured["end_to_end_ms"]["batch_1"]
        assert 0 < times["p50"] <= times["p95"]
        assert measured["end_to_end_throughput"]["batch_32"] > 0
    teacher, student = (report.models[name]["end_to_end_ms"]["batch_1"]["p50"] for name in ("teacher", "student"))
    assert report.ratios["faster_end_to_end"] == pytest.approx(teacher / student, rel=1e-4)
    assert set(report.onnx["int8"]["ratios"]) >= {"faster_end_to_end", "throughput_end_to_end"}
    assert "ms a text with tokenization: teacher" in printed(report)
    text = model_card(report, tmp_path, student_name="s", teacher="org/teacher").text
    assert "| text to label, with tokenization | ms a text, p50 |" in text and "int8 in runtime.py |" in text
    without = compare(*compared, **settings)
    assert "end_to_end_ms" not in without.models["student"] and "faster_end_to_end" not in without.ratios


def test_texts_that_are_not_those_of_the_rows_are_refused(dataset):
    tokenizer = words_tokenizer()
    texts = spelled(dataset)
    settings = {"teacher_processing_class": tokenizer, "student_processing_class": tokenizer}
    with pytest.raises(ValueError, match="got 3 texts for the 200 rows"):
        compare(reader(), reader(), dataset, raw_texts=texts[:3], **settings)
    with pytest.raises(ValueError, match=r"text \d+ has \d+ tokens for the teacher"):
        compare(reader(), reader(), dataset, raw_texts=texts[::-1], **settings)
    with pytest.raises(ValueError, match=r"needs the tokenizer of the student\. Give student_processing_class"):
        compare(reader(), reader(), dataset, raw_texts=texts, teacher_processing_class=tokenizer)


def test_rows_that_were_cut_are_cut_again(dataset):
    cut = dataset.map(lambda row: {name: row[name][:5] for name in ("input_ids", "attention_mask")})
    tokenizer = words_tokenizer()
    settings = {"teacher_processing_class": tokenizer, "student_processing_class": tokenizer, "metrics": ["accuracy"]}
    report = compare(reader(), reader(), cut, raw_texts=spelled(dataset), **settings)
    assert report.models["student"]["end_to_end_ms"]
