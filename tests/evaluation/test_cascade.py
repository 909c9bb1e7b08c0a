"""A student and its teacher as one classifier: any student, any teacher, one threshold, and what is kept of it."""

import copy
import json

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline, set_seed

from hf_distill import Cascade
from hf_distill.evaluation.answering import same_classes
from hf_distill.runtime import Student
from hf_distill.teachers import TextTeacher, ask
from hf_distill.teachers.prompted import PromptedTeacher
from hf_distill.teachers.prompts import ClassPrompt
from tests.teachers.serving import characters, fond_of, language_model
from tests.test_runtime import exported, lstm, wordpiece

NAMES = ["bad", "good", "neither"]
HEAD = {"id2label": dict(enumerate(NAMES))}
WORDS = ("food", "lovely", "staff", "don", "rush", "ada", "london", "in", "was", "the")


def texts_of(number: int, seed: int = 0, longest: int = 6) -> list[str]:
    """Different texts."""
    generator = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < number:
        found[" ".join(generator.choice(WORDS, generator.integers(2, longest)))] = None
    return list(found)


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece()


def decided(tokenizer, **config):
    """A student that knows all its classes, and is more or less sure."""
    set_seed(2)
    model = lstm(tokenizer, **config).eval()
    read = tokenizer(texts_of(300), padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        model.classifier.bias -= model(**read).logits.mean(dim=0)
        for parameter in (model.classifier.weight, model.classifier.bias):
            parameter *= 3
    return model


@pytest.fixture(scope="module")
def student(tokenizer):
    return decided(tokenizer, **HEAD), tokenizer


@pytest.fixture(scope="module")
def teacher(student):
    """Like the student, but for some noise: they differ where the student is not sure."""
    model = copy.deepcopy(student[0])
    with torch.no_grad():
        model.classifier.weight += 0.3 * torch.randn(model.classifier.weight.shape, generator=torch.manual_seed(1))
    return model, student[1]


def answers_of(models, texts):
    return [each["label"] for each in pipeline("text-classification", models[0], tokenizer=models[1])(texts)]


@pytest.fixture(scope="module")
def cascade(student, teacher):
    return Cascade(student, teacher, agreement=0.9, calibration_texts=texts_of(300), batch_size=64)


def test_it_answers_as_student_and_teacher_do(cascade, student, teacher):
    texts = texts_of(60, seed=1)
    before = dict(cascade.counts)
    found = cascade(texts)
    deferred = [each["deferred"] for each in found]
    assert 0 < sum(deferred) < len(texts)
    expected = zip(deferred, *(answers_of(models, texts) for models in (student, teacher)), strict=True)
    assert [each["label"] for each in found] == [theirs if handed else own for handed, own, theirs in expected]
    scores = {
        text: each["score"]
        for text, each in zip(
            texts, pipeline("text-classification", student[0], tokenizer=student[1])(texts), strict=True
        )
    }
    for text, each in zip(texts, found, strict=True):
        assert each["deferred"] or each["score"] == pytest.approx(scores[text], abs=1e-4)
        assert 1 / 3 <= each["score"] <= 1
    assert cascade.counts["texts"] - before["texts"] == 60
    assert cascade.counts["deferred"] - before["deferred"] == sum(deferred)
    assert cascade(texts[0]) == cascade([texts[0]]) and len(cascade(texts[0])) == 1
    assert cascade([]) == []


def test_a_fit_sets_the_config_and_tells_its_curve(cascade, student):
    config = student[0].config
    assert (config.cascade_threshold, config.cascade_temperature) == (cascade.threshold, cascade.temperature)
    assert cascade.fitted.tested_texts == 240 and cascade.fitted.calibration_texts == 60
    assert 0 < cascade.fitted.handed_over < 240
    assert cascade.curve[-1]["agreement"]["value"] == 1.0
    assert cascade.curve[0]["agreement"]["value"] < cascade.curve[5]["agreement"]["value"]


def test_the_report_measures_quality_and_cost(cascade, teacher):
    texts = texts_of(100, seed=2)
    labels = answers_of(teacher, texts)
    report = cascade.report(texts, labels)
    assert report["texts"] == 100 and report["unanswered"] == 0
    at = report["at_threshold"]
    assert at["threshold"] == cascade.threshold and at["quality"]["value"] == at["agreement"]["value"]
    share = sum(each["deferred"] for each in cascade(texts)) / 100
    assert at["handed_over"]["value"] == share
    assert at["cost"] == pytest.approx(share + report["student_ms"] / report["teacher_ms"])
    assert report["curve"][-1]["quality"]["value"] == 1.0
    assert "quality" not in cascade.report(texts)["at_threshold"]
    assert json.loads(json.dumps(report)) == report  # plain data
    for wrong in (labels[:-1], [*labels[:-1], "awful"]):
        with pytest.raises(ValueError, match="labels: expected the class name of each of 100 texts"):
            cascade.report(texts, wrong)


def test_the_saved_threshold_is_read_by_all(tmp_path, teacher):
    tokenizer = teacher[1]
    model = exported(tmp_path, decided, tokenizer, int8=True, **HEAD)
    fitted = Cascade(tmp_path, teacher, agreement=0.9, calibration_texts=texts_of(300))
    fitted.save()
    assert json.loads((tmp_path / "config.json").read_text())["cascade_threshold"] == fitted.threshold
    texts = texts_of(40, seed=3)
    deferred = [each["deferred"] for each in fitted(texts)]
    assert 0 < sum(deferred) < 40
    runtime = Student(tmp_path)
    assert [each["deferred"] for each in runtime(texts)] == deferred
    assert [each["deferred"] for each in Cascade(runtime, teacher)(texts)] == deferred
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert [each["deferred"] for each in Cascade((loaded, tokenizer), teacher)(texts)] == deferred
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["cascade_temperature"] == fitted.temperature
    int8 = Cascade(Student(tmp_path, int8=True), teacher, defer=0.25, calibration_texts=texts_of(200))
    assert int8.fitted.handed_over == 40 and int8.threshold != fitted.threshold
    assert model.config.num_labels == 3


@pytest.mark.cheapest
def test_classes_in_another_order_mean_the_same(cascade, student, teacher):
    turned = copy.deepcopy(teacher[0])
    order = [2, 0, 1]
    with torch.no_grad():
        turned.classifier.weight.copy_(teacher[0].classifier.weight[order])
        turned.classifier.bias.copy_(teacher[0].classifier.bias[order])
    turned.config.id2label = {place: NAMES[number] for place, number in enumerate(order)}
    texts = texts_of(50, seed=4)
    other = Cascade(student, (turned, teacher[1]), agreement=0.9, calibration_texts=texts_of(300), batch_size=64)
    labels = [[each["label"] for each in one(texts)] for one in (cascade, other)]
    assert labels[0] == labels[1] and other.threshold == cascade.threshold


@pytest.mark.parametrize("names", [["bad", "good"], ["bad", "good", "awful"]])
def test_a_teacher_with_other_classes_is_refused(student, names):
    other = lstm(student[1], id2label=dict(enumerate(names)))
    with pytest.raises(ValueError, match=r"The student's classes are .* and the teacher's .*'bad', 'good'"):
        Cascade(student, (other, student[1]), agreement=0.9)


def test_a_teacher_whose_classes_have_no_names_is_taken_by_number(cascade):
    default = [f"LABEL_{number}" for number in range(3)]
    assert same_classes(cascade.student, default, named=False) == [0, 1, 2]
    with pytest.raises(ValueError, match="Give both the same classes"):
        same_classes(cascade.student, default[:2], named=False)


def test_a_function_teaches_by_names(student, teacher):
    def function(texts):
        assert len(texts) <= 50
        return [each if number % 2 else each["label"] + "." for number, each in enumerate(pipe(texts))]

    pipe = pipeline("text-classification", teacher[0], tokenizer=teacher[1])
    texts = texts_of(300)
    by_function = Cascade(student, function, agreement=0.9, calibration_texts=texts, batch_size=50)
    by_model = Cascade(student, pipe, agreement=0.9, calibration_texts=texts, batch_size=50)
    assert by_function.threshold == by_model.threshold
    found = by_function(texts_of(30, seed=5))
    assert {each["score"] is None for each in found if each["deferred"]} == {True}


@pytest.mark.cheapest
def test_answers_that_name_no_class_are_counted(student, teacher, caplog):
    silent: set[str] = set()

    def function(texts):
        return ["I cannot say" if text in silent else answers[text] for text in texts]

    texts, more = texts_of(300), texts_of(40, seed=6)
    answers = dict(zip([*texts, *more], answers_of(teacher, [*texts, *more]), strict=True))
    silent |= {*texts[::10]}
    cascade = Cascade(student, function, agreement=0.9, calibration_texts=texts)
    assert cascade.fitted.unanswered == 30 and cascade.fitted.tested_texts + cascade.fitted.calibration_texts == 270
    silent |= {*more}
    found = cascade(more)
    handed = [number for number, each in enumerate(found) if each["deferred"]]
    assert [each["label"] for each in found] == answers_of(student, more)  # the student's answers stand
    assert cascade.counts["unanswered"] == len([number for number in handed if more[number] in silent]) > 0
    assert "names no class" in caplog.text
    with pytest.raises(ValueError, match="None of the teacher's 300 answers names one of the student's classes"):
        Cascade(student, lambda batch: ["no"] * len(batch), agreement=0.9, calibration_texts=texts)


def test_harvest_is_a_ledger_for_the_next_distillation(student, teacher, tmp_path):
    answers = dict(zip(texts_of(300), answers_of(teacher, texts_of(300)), strict=True))
    asked: list[str] = []

    def function(texts):
        asked.extend(texts)
        return [answers[text] for text in texts]

    cascade = Cascade(student, function, agreement=0.9, calibration_texts=[*answers])
    found = cascade([*answers][:80])
    handed = [text for text, each in zip([*answers][:80], found, strict=True) if each["deferred"]]
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(ValueError, match=r"Pass name=\.\.\., and another name whenever"):
        cascade.harvest(path)
    assert cascade.harvest(path, name="rules 1") == len(handed) > 0
    assert cascade.harvest(path, name="rules 1") == 0  # nothing new
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["text"] == handed and rows["answer"] == [answers[text] for text in handed]
    asked.clear()
    assert ask(function, handed, ledger=path, name="rules 1") == [answers[text] for text in handed]
    assert not asked  # the ledger answers
    cascade([*answers][:80])
    assert cascade.harvest(path, name="rules 1") == 0  # the ledger has them


@pytest.mark.cheapest
def test_a_text_teacher_and_a_classifier_have_names(student, teacher, tmp_path):
    class Fixed(TextTeacher):
        name = "fixed"

        def answers(self, texts):
            yield from enumerate(["good"] * len(texts))

    texts = texts_of(200)
    for number, given in enumerate((Fixed(), teacher)):
        cascade = Cascade(student, given, defer=0.5, calibration_texts=texts)
        deferred = sum(each["deferred"] for each in cascade(texts))
        assert cascade.harvest(tmp_path / f"{number}.jsonl") == deferred > 0
    assert '"answer": "good"' in (tmp_path / "0.jsonl").read_text()


@pytest.mark.cheapest
def test_a_prompted_teacher_harvests_what_its_next_cache_reads(student, tmp_path):
    tokenizer = characters()
    prompt = ClassPrompt(NAMES[::-1], "How?")
    prompted = PromptedTeacher(fond_of(language_model(), tokenizer, "ABC", by=12.0), tokenizer, prompt)
    texts = texts_of(70, longest=3)
    expected = dict(zip(texts, prompted(texts).labels.tolist(), strict=True))
    cascade = Cascade(student, prompted, defer=0.5, calibration_texts=texts)
    found = cascade(texts)
    handed = [text for text, each in zip(texts, found, strict=True) if each["deferred"]]
    assert [each["label"] for each in found if each["deferred"]] == [prompt.names[expected[text]] for text in handed]
    assert cascade.harvest(tmp_path / "answers.jsonl") == len(handed) > 0
    again = prompted(handed, ledger=tmp_path / "answers.jsonl")
    assert again.counts["asked"] == 0 and again.counts["answered"] == len(handed)
    with pytest.raises(ValueError, match="leave name out"):
        cascade.harvest(tmp_path / "answers.jsonl", name="other")
    with pytest.raises(ValueError, match="The student's classes are"):
        Cascade(student, PromptedTeacher(prompted.model, tokenizer, ClassPrompt(["x", "y"], "How?")), defer=0.5)


@pytest.mark.cheapest
def test_several_labels_are_handed_over_together(tokenizer):
    student = decided(tokenizer, **HEAD, problem_type="multi_label_classification")
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        teacher.classifier.bias += 0.5
    texts = texts_of(300)
    cascade = Cascade((student, tokenizer), (teacher, tokenizer), agreement=0.8, calibration_texts=texts)
    found = cascade(texts)
    assert 0 < sum(each["deferred"] for each in found) < 300
    differing = 0
    for text, each in zip(texts, found, strict=True):
        with torch.no_grad():
            logits = [
                model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0]
                for model in (student, teacher)
            ]
        names = [[name for name, value in zip(NAMES, row, strict=True) if value > 0] for row in logits]
        assert each["label"] == names[each["deferred"]]
        differing += not each["deferred"] and names[0] != names[1]
    assert differing <= 0.2 * 300
    labels = [each["label"] for each in found]
    assert cascade.report(texts, labels)["at_threshold"]["quality"]["value"] == 1.0
    with pytest.raises(ValueError, match="needs a classifier of the same labels"):
        Cascade((student, tokenizer), lambda batch: batch, agreement=0.8)
    with pytest.raises(ValueError, match="other problem types"):
        Cascade((student, tokenizer), (lstm(tokenizer, **HEAD), tokenizer), agreement=0.8)


def test_pairs_are_answered_by_classifiers(cascade):
    pairs = [("food", "lovely staff"), ("the staff", "don rush"), ("ada", "in london")]
    named = [{"text": text, "text_pair": pair} for text, pair in pairs]
    found = cascade(pairs)
    assert cascade(named) == found
    assert cascade(pairs[0])[0]["score"] == pytest.approx(found[0]["score"], abs=1e-5)
    with pytest.raises(TypeError, match="got both"):
        cascade(["food", *pairs])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["food", " "], ValueError, "1 of 2 texts are blank, number 1 first"),
        ("", ValueError, "blank"),
        ([1], TypeError, "Expected texts, or pairs"),
        ([("a", "b", "c")], TypeError, "Expected texts, or pairs"),
        ([None], TypeError, "Expected texts"),
    ],
)
def test_texts_that_are_none(cascade, given, error, message):
    with pytest.raises(error, match=message):
        cascade(given)


def test_what_cannot_be_a_cascade(student, teacher):
    texts = texts_of(120)
    with pytest.raises(ValueError, match=r"at least 374 held-out texts for agreement=0.99 .* got 120"):
        Cascade(student, lambda batch: pytest.fail("asked"), agreement=0.99, calibration_texts=texts)
    bare = copy.deepcopy(student[0]), student[1]
    for name in ("cascade_threshold", "cascade_temperature"):
        delattr(bare[0].config, name)
    with pytest.raises(ValueError, match="the student's config has no cascade_threshold"):
        Cascade(bare, teacher)
    with pytest.raises(ValueError, match=r"There is no threshold yet. Call fit\(texts\)"):
        Cascade(bare, teacher, agreement=0.9)("food")
    with pytest.raises(ValueError, match="There is no curve before a fit"):
        _ = Cascade(bare, teacher, agreement=0.9).curve
    with pytest.raises(ValueError, match="calibration_texts are for agreement or defer"):
        Cascade(student, teacher, calibration_texts=texts)
    with pytest.raises(ValueError, match="batch_size: expected 1 or more"):
        Cascade(student, teacher, agreement=0.9, batch_size=0)
    with pytest.raises(TypeError, match="The student is a int: expected a folder"):
        Cascade(3, teacher, agreement=0.9)
    with pytest.raises(TypeError, match="The teacher is a int: expected a folder"):
        Cascade(student, 3, agreement=0.9)
    regression = lstm(student[1], num_labels=1, problem_type="regression")
    tagger = lstm(student[1], tags=True, **HEAD)
    for wrong in (regression, tagger):
        with pytest.raises(ValueError, match="A cascade needs a classifier of texts as student"):
            Cascade((wrong, student[1]), teacher, agreement=0.9)


def test_no_threshold_keeps_the_promise(student):
    texts = texts_of(300)
    own = dict(zip(texts, answers_of(student, texts), strict=True))

    def contrary(batch):
        return [NAMES[(NAMES.index(own[text]) + 1) % 3] for text in batch]

    with pytest.raises(ValueError, match=r"No threshold keeps agreement=0\.985 with confidence 0\.95: on 240 texts"):
        Cascade(student, contrary, agreement=0.985, calibration_texts=texts)
