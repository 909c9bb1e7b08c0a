"""Whether a teacher, a student and their rows agree on classes and problems, before anything is trained."""

from collections.abc import Iterable
from typing import Any

import datasets

from hf_distill.problems import Task, check_classes, has_default_names, known_problem
from hf_distill.teachers.live import LiveTeacher


def check_members(student: Any, teacher: LiveTeacher, task: Task) -> None:
    """`problems.check_classes` of every member of a teacher.

    Args:
        student: config.
        teacher: a model or an ensemble.
        task: of both.
    Raises:
        ValueError: other classes or another problem type than the student's.
    """
    for number, member in enumerate(teacher.members):
        name = "the teacher" if len(teacher.members) == 1 else f"member {number} of the teacher"
        check_classes(student, member.config, task, ("the student", name))


def adopt_problem_type(student: Any, teacher: LiveTeacher, task: Task) -> None:
    """Give a student without a problem type that of its teacher, so that rows without labels are read right.

    Args:
        student: config, changed in place.
        teacher: whose members agree.
        task: of both.
    """
    if task.name != "text-classification" or student.problem_type is not None:
        return
    known = (known_problem(member.config) for member in teacher.members)
    student.problem_type = next((problem for problem in known if problem is not None), None)


def complete_config(student: Any, teacher: LiveTeacher | None, task: Task, rows: Iterable[Any]) -> None:
    """Check the classes' names in data sets, and let a student's config take what it lacks.

    Args:
        student: config, changed in place: its problem type, from the teacher, and the names of its classes, from the
            data sets.
        teacher: whose outputs are soft targets; None where there are none.
        task: of both.
        rows: data sets of training and evaluation.
    Raises:
        ValueError: a data set has the classes of the student or the teacher under other numbers.
    """
    for names in filter(None, (class_names(dataset, task) for dataset in rows)):
        check_class_names(names, student, "the student")
        for member in () if teacher is None else teacher.members:
            check_class_names(names, member.config, "the teacher")
        adopt_class_names(student, names)
    if teacher is not None:
        adopt_problem_type(student, teacher, task)


# Names of classes


def class_names(dataset: Any, task: Task) -> list[str] | None:
    """The names that a data set's own label column has for its classes (`datasets.ClassLabel`), if it has some.

    Args:
        dataset: any.
        task: of the rows.
    """
    features = getattr(dataset, "features", None) or {}
    feature = next((features[name] for name in ("labels", "label") if name in features), None)
    if task.name == "token-classification":
        feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    elif task.name != "text-classification":
        return None
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def check_class_names(names: list[str], config: Any, what: str) -> None:
    """Raise where a model has the classes of a data set under other numbers.

    Names that the two do not share tell nothing: `NEGATIVE` and `negative` are the same, `neg` may be.

    Args:
        names: of the data set, in order.
        config: of the model.
        what: the model is, for the error.
    Raises:
        ValueError: the same name stands for another number.
    """
    if has_default_names(config):
        return
    own = {str(name).strip().casefold(): number for number, name in config.id2label.items()}
    moved = [name for number, name in enumerate(names) if own.get(name.strip().casefold(), number) != number]
    if moved:
        raise ValueError(
            f"The data set's classes are {names} (the ClassLabel of its labels) and {what}'s "
            f"{[config.id2label[number] for number in sorted(config.id2label)]}: {', '.join(map(repr, moved))} would "
            f"be read as another class. Number the labels by the model's id2label: dataset.align_labels_with_mapping("
            "{name: number}, 'labels') does it."
        )


def adopt_class_names(student: Any, names: list[str]) -> None:
    """Give a student whose classes have no names (`LABEL_0`) those of the data set, to be published with it.

    Args:
        student: config, changed in place.
        names: in order; another number of them than the student has classes changes nothing.
    """
    if has_default_names(student) and len(names) == student.num_labels:
        student.id2label = dict(enumerate(names))
        student.label2id = {name: number for number, name in enumerate(names)}
