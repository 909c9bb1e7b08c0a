"""Whether a teacher, a student and their rows agree on classes, tokens and lengths, before anything is trained."""

from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_distill import columns
from hf_distill.models import shared_tokens
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


def tokens_shared_with(student: Any, teacher: LiveTeacher, tokenizer: Any, teacher_tokenizer: Any) -> int | None:
    """`models.shared_tokens` of every member of a teacher: the least number, None where all tables are equally long.

    Args:
        student: config.
        teacher: a model or an ensemble, which reads the student's tokens.
        tokenizer: the student's, if known.
        teacher_tokenizer: the teacher's, if known.
    Raises:
        ValueError: the tokens of a member differ from the student's, or may differ.
    """
    numbers = [shared_tokens(student, member.config, tokenizer, teacher_tokenizer) for member in teacher.members]
    return min((number for number in numbers if number is not None), default=None)


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


# Names of classes


def class_names(dataset: Any, task: Task) -> list[str] | None:
    """The names that a data set's own label column has for its classes (`datasets.ClassLabel`), if it has some.

    Args:
        dataset: any; a dictionary of data sets has the names of the first with some.
        task: of the rows.
    """
    if isinstance(dataset, Mapping):
        return next((names for each in dataset.values() if (names := class_names(each, task))), None)
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


# Rows


def check_rows_fit(dataset: Any, teacher: LiveTeacher) -> None:
    """Raise for rows that are longer than the teacher has places for, or have tokens that it does not know.

    Args:
        dataset: a `datasets.Dataset` of tokenized rows; others are judged batch by batch.
        teacher: that will read them.
    Raises:
        ValueError: the first such row.
    """
    if isinstance(dataset, Mapping):
        for each in dataset.values():
            check_rows_fit(each, teacher)
    if not isinstance(dataset, datasets.Dataset):
        return
    own = columns.PREFIX + "input_ids"
    name = own if own in dataset.column_names else "input_ids"
    places, words = teacher.limits
    for start, ids in _lists(dataset, name):
        lengths = np.asarray(pc.list_value_length(ids))
        if (lengths > places).any():
            row = int((lengths > places).argmax())
            raise ValueError(
                f"{name}: row {start + row} has {lengths[row]} tokens, and the teacher has places for {places}. Cut "
                f"the rows when they are tokenized (max_length={places}), or leave them out."
            )
        greatest = pc.max(pc.list_flatten(ids)).as_py()
        if greatest is not None and greatest >= words:
            raise ValueError(
                f"{name}: the rows have the token {greatest}, and the teacher knows {words}: they were tokenized for "
                f"another model. Tokenize them with the teacher's own tokenizer, as {own} where the student has "
                "another one."
            )


def _lists(dataset: datasets.Dataset, name: str) -> Iterator[tuple[int, pa.ChunkedArray]]:
    """The parts of a column of lists of whole numbers, each after the number of its first row; none of others."""
    if name not in dataset.column_names:
        return
    start = 0
    for part in dataset.select_columns([name]).with_format("arrow").iter(1000):
        column = part.column(name)
        kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        if not any(kind(column.type) for kind in kinds) or not pa.types.is_integer(column.type.value_type):
            return
        yield start, column
        start += len(part)
