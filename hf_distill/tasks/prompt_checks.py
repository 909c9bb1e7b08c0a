"""What cannot go with a teacher behind a prompt, told before any data is read."""

from typing import Any
from urllib.parse import urlsplit

from hf_distill.tasks.settings import Settings

TASK = "text-classification"
KEYS = ("server", "budget", "price")  # of `teacher`, that mean nothing without `teacher.prompt`
# Of a chain of keys what a teacher behind a prompt cannot go with, and why.
WITHOUT_WEIGHTS = "only its answers to a prompt are known, and they train nothing in it"
REFUSED = {
    "teacher.fine_tune": WITHOUT_WEIGHTS,
    "teacher.cross_fit": WITHOUT_WEIGHTS,
    "teacher.lora": WITHOUT_WEIGHTS,
    "teacher.generation": "it is asked for classes, and writes no targets",
    "teacher.label_map": "its classes are those of teacher.prompt.classes",
    "data.augment": "new texts would be questions too, and how many is not known before they are made",
    "data.problem_type": "its answers are classes, and no quantities",
    "data.label_separator": "its answers are one class a text",
}
WITHOUT_LABELS = {
    "data.labels": "the classes are those of teacher.prompt.classes",
    "data.labelled": "no row has a label",
    "data.minimum": "it is about labels",
    "data.fidelity": "the rows of data.test are what fidelity is measured on",
    "teacher.calibrate": "it needs validation labels",
}


def check_prompted(settings: Settings) -> None:
    """Raise a ValueError for what cannot go with a teacher behind a prompt, or means nothing without one."""
    teacher, data = settings.teacher, settings.data
    if teacher.prompt is None:
        for name in KEYS:
            if getattr(teacher, name) is not None:
                raise ValueError(
                    f"teacher.{name}: is of a teacher behind a prompt. Give teacher.prompt, or leave it out."
                )
        if settings.student.base is not None:
            raise ValueError("student.base: is for a teacher behind a prompt; the student starts from teacher.model.")
        if data.labelled_test is not None or (data.label is None and not settings.writes):
            key = "labelled_test" if data.labelled_test is not None else "label: null"
            raise ValueError(
                f"data.{key}: runs without labels need a teacher that has its classes from teacher.prompt. Give it, or "
                "name the column of the labels in data.label."
            )
        return
    if settings.task != TASK:
        spans = " For tags, see hf_distill.cache_span_outputs." if settings.task == "token-classification" else ""
        raise ValueError(f"teacher.prompt: is for {TASK}, and the task is {settings.task}. Leave it out.{spans}")
    _check_refused(settings, REFUSED)
    if settings.cascade is not None:
        raise ValueError(
            "cascade: cannot go with teacher.prompt: what a text costs a cascade is measured beside the student, and "
            "this teacher is asked once, before. Leave it out, and see hf_distill.Cascade."
        )
    if len(data.text_columns) > 1 or isinstance(data.label, list):
        raise ValueError(
            "teacher.prompt: asks for one class of one text: expected one column in data.text and data.label."
        )
    names = teacher.prompt.question.names
    if data.labels and [str(each) for each in data.labels] != names:
        raise ValueError(
            f"data.labels: expected the classes of teacher.prompt in their order, {names}, got {data.labels}. Leave it "
            "out."
        )
    _check_model(settings)
    _check_student(settings)
    _check_labels(settings)


def _check_refused(settings: Settings, refused: dict[str, str]) -> None:
    where = "" if refused is REFUSED else " without labels"
    for key, why in refused.items():
        section, _, name = key.partition(".")
        if getattr(getattr(settings, section), name):
            raise ValueError(f"{key}: cannot go with teacher.prompt{where}: {why}. Leave it out.")
    for number, stage in enumerate(settings.stages):
        if stage.get("matching"):
            raise ValueError(
                f"distill.matching (stage {number}): a teacher behind a prompt shows no inner states. Leave it out."
            )


def _check_model(settings: Settings) -> None:
    teacher: Any = settings.teacher
    server, method = teacher.server, teacher.prompt.method
    if server is not None and teacher.model is not None:
        raise ValueError(
            "teacher.model: the teacher is on a server, whose model is teacher.server.model. Leave one of them out."
        )
    ways = ("answers", "letters") if server is None else ("letters", "scoring", "structured", "hard")
    if method is not None and method not in ways:
        where = "a local model" if server is None else "a server"
        raise ValueError(f"teacher.prompt.method: of {where} expected one of {', '.join(ways)}, got {method}.")
    if server is None:
        return
    if urlsplit(server.url).scheme not in ("http", "https"):
        raise ValueError(
            "teacher.server.url: expected the address of an OpenAI-compatible interface, http://localhost:8000/v1 for "
            "instance."
        )
    warm = [stage["temperature"] for stage in settings.stages if stage["temperature"] != 1]
    if warm or any(stage.get("temperature_end") for stage in settings.stages):
        raise ValueError(
            f"distill.temperature: expected 1 with teacher.server, got {', '.join(map(str, warm)) or 'a schedule'}. "
            "What a server returns is known at temperature 1: a class that it leaves out is known by a bound alone. "
            "Leave it out."
        )


def _check_student(settings: Settings) -> None:
    student = settings.student
    if student.base is not None:
        return
    needs = {"kind: transformer": student.kind == "transformer", "vocab_size: null": student.vocab_size is None}
    needs["from_teacher: true"] = student.from_teacher
    for key, given in needs.items():
        if given:
            raise ValueError(
                f"student.{key}: a teacher behind a prompt gives its student neither weights nor a tokenizer. Set "
                "student.base to an encoder that it starts from (a Hub id or a folder), or leave the key out."
            )


def _check_labels(settings: Settings) -> None:
    data, compare = settings.data, settings.compare
    if data.label is not None:
        if data.labelled_test is not None:
            raise ValueError(
                "data.labelled_test: with data.label the labelled test rows are those of data.test. Leave one of them "
                "out."
            )
        return
    _check_refused(settings, WITHOUT_LABELS)
    weights = [stage.get("hard_label_weight") for stage in settings.stages]
    if any(weights) or any(
        stage.get("hard_label_weight_end") or stage.get("labelled_fraction") for stage in settings.stages
    ):
        raise ValueError(
            "distill.hard_label_weight: there are no labels to learn from (data.label is not given), so it is 0. Leave "
            "it and labelled_fraction out, or name the column of the labels in data.label."
        )
    unnamed = [name for name, changes in compare.test_sets.items() if "label" not in changes]
    if unnamed:
        raise ValueError(
            f"compare.test_sets.{unnamed[0]}: expected the column of its labels as label: data.label is not given."
        )
    if data.labelled_test is None:
        if compare.test_sets:
            raise ValueError(
                "compare.test_sets: without labels quality is agreement with the teacher, which means something else "
                "on sets with labels. Give data.labelled_test, beside which there may be further ones."
            )
        if compare.metrics is not None:
            raise ValueError(
                "compare.metrics: without labels there is nothing but agreement with the teacher to measure, got "
                f"{compare.metrics}. Leave it out, or give a small labelled set as data.labelled_test."
            )
        if settings.teacher.floor is not None:
            raise ValueError(
                "teacher.floor: there are no labels to measure the teacher by. Leave it out, or give "
                "data.labelled_test."
            )
