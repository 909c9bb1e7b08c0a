"""What student, teacher and rows must agree on before a training: classes, problems, names, lengths, tokens."""

import datasets
import pytest

from hf_distill import DistillationArguments, DistillationTrainer, TeacherEnsemble
from hf_distill.problems import TASKS, check_classes
from hf_distill.teachers.agreement import check_class_names, class_names
from tests.conftest import collate, tiny_bert, tiny_rows

MULTI, SINGLE = "multi_label_classification", "single_label_classification"


def named(names, seed=0, **config):
    return tiny_bert(
        seed=seed,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        **config,
    )


def of_classes(names, column="labels", rows=None):
    rows = rows or tiny_rows()
    features = rows.features.copy()
    features["labels"] = datasets.ClassLabel(names=names)
    rows = rows.cast(features)
    return rows if column == "labels" else rows.rename_column("labels", column)


def trainer(folder, student, teacher, rows, **changes):
    settings = DistillationArguments(
        str(folder), max_steps=1, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True, **changes
    )
    return DistillationTrainer(student, settings, teacher_model=teacher, train_dataset=rows, data_collator=collate)


# Problem types


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ({"problem_type": SINGLE}, {"problem_type": MULTI}),
        ({"problem_type": MULTI}, {"problem_type": "regression"}),
        ({"num_labels": 1}, {"num_labels": 1, "problem_type": MULTI}),
        ({"num_labels": 1, "problem_type": MULTI}, {"num_labels": 1}),
    ],
)
def test_problem_types_differ(tmp_path, student, teacher):
    models = [tiny_bert(**{"num_labels": 3, **config}) for config in (student, teacher)]
    with pytest.raises(ValueError, match=r"The student's problem type is .* and the teacher's"):
        check_classes(models[0].config, models[1].config, TASKS["text-classification"])
    with pytest.raises(ValueError, match=r"The student's problem type is .* and the teacher's"):
        trainer(tmp_path, *models, tiny_rows().remove_columns("labels"), hard_label_weight=0.0)
    check_classes(models[0].config, models[1].config, TASKS["token-classification"])


@pytest.mark.parametrize("problem", [MULTI, "regression", SINGLE])
def test_a_student_without_a_problem_type_takes_its_teachers(tmp_path, problem):
    student, teacher = tiny_bert(num_labels=3), tiny_bert(seed=1, num_labels=3, problem_type=problem)
    trainer(tmp_path, student, teacher, tiny_rows().remove_columns("labels"), hard_label_weight=0.0)
    assert student.config.problem_type == problem


def test_a_student_that_model_init_makes_takes_it_too(tmp_path):
    made = DistillationTrainer(
        None,
        DistillationArguments(
            str(tmp_path), max_steps=1, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True
        ),
        model_init=lambda: tiny_bert(num_labels=3),
        teacher_model=tiny_bert(seed=1, num_labels=3, problem_type=SINGLE),
        train_dataset=of_classes(["no", "maybe", "yes"]),
        data_collator=collate,
    )
    made.train()
    assert made.model.config.problem_type == SINGLE
    assert made.model.config.id2label == {0: "no", 1: "maybe", 2: "yes"}


# Names of classes


@pytest.mark.parametrize("column", ["labels", "label"])
def test_the_data_sets_names_are_published(tmp_path, column):
    student = tiny_bert(num_labels=3)
    trainer(tmp_path, student, tiny_bert(seed=1, num_labels=3), of_classes(["no", "maybe", "yes"], column))
    assert student.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert student.config.label2id == {"no": 0, "maybe": 1, "yes": 2}


@pytest.mark.parametrize(
    ("student", "teacher", "what"),
    [
        (tiny_bert, lambda: named(["yes", "no", "maybe"]), "the teacher's"),
        (tiny_bert, lambda: TeacherEnsemble([tiny_bert(num_labels=3), named(["No", "Yes", "Maybe"])]), "the teacher's"),
        (lambda num_labels: named(["maybe", "no", "yes"]), lambda: tiny_bert(num_labels=3), "the student's"),
    ],
)
def test_the_data_sets_names_in_another_order_are_refused(tmp_path, student, teacher, what):
    with pytest.raises(ValueError, match=rf"The data set's classes are \['no', 'maybe', 'yes'\] .* and {what}"):
        trainer(tmp_path, student(num_labels=3), teacher(), of_classes(["no", "maybe", "yes"]))


def test_other_names_tell_nothing():
    check_class_names(["neg", "pos"], named(["NEGATIVE", "POSITIVE"]).config, "the teacher")
    check_class_names([" no", "YES"], named(["No", "yes"]).config, "the teacher")
    with pytest.raises(ValueError, match=r"'pos' would be read as another class.*align_labels_with_mapping"):
        check_class_names(["neg", "pos"], named(["POS", "NEUTRAL"]).config, "the teacher")


def test_where_names_are_found():
    tags = tiny_rows(3).remove_columns("labels").add_column("labels", [[0], [1], [0]])
    features = tags.features.copy()
    features["labels"] = datasets.List(datasets.ClassLabel(names=["O", "B"]))
    tags = tags.cast(features)
    assert class_names(tags, TASKS["token-classification"]) == ["O", "B"]
    assert class_names(tags, TASKS["text-classification"]) is None
    assert class_names(tags, TASKS["text-generation"]) is None
    assert class_names(None, TASKS["text-classification"]) is None
