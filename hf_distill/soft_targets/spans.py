"""The ordinary cache of a teacher that marks spans: `teacher_logits` that are log-probabilities of each word's tag."""

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np

from hf_distill.columns import LOGITS, TEACHER_WORD_STARTS, all_numbers
from hf_distill.data.class_names import label_names
from hf_distill.data.labels import is_list
from hf_distill.data.scripts import is_spaceless
from hf_distill.problems import IGNORE_INDEX
from hf_distill.soft_targets.asked import (
    BATCH,
    LEDGER,
    AskedPass,
    Found,
    cached_answers,
    check_rows,
    origin_of,
    with_targets,
)
from hf_distill.soft_targets.checks import check_options, output_folder
from hf_distill.soft_targets.layout import Layout
from hf_distill.teachers.ask import checked_texts
from hf_distill.teachers.span_targets import Sentence, SpanTargets
from hf_distill.teachers.spans import SpanTeacher

TASK = "token-classification"
WORDS = "words"
HAS_TARGET = "has_target"
TOLD = ("counts", "seconds")


def cache_span_outputs(
    dataset: datasets.Dataset,
    teacher: SpanTeacher,
    *,
    output_dir: str | Path,
    text: str = WORDS,
    tags: Sequence[str] | None = None,
    ledger: str | Path | None = None,
    dtype: str = "float32",
) -> tuple[datasets.Dataset, SpanTargets]:
    """Ask a teacher for the spans of every row, and keep the log-probabilities of each word's tag beside the rows.

    `DistillationTrainer` takes `teacher_logits` as any cache of tags, one row a word: put it and `teacher_word_starts`,
    by which all words of the row were read, beside the columns of `hf_distill.data.tokenize`. Words that the student's
    tokenizer cuts off have no target. Each distinct text is asked about once; a second call goes on from the ledger.

    Args:
        dataset: rows with a column of words or of texts.
        teacher: marks spans.
        output_dir: of the cache, and of the ledger where none is given. A complete cache of the same rows, teacher and
            tags is read, and nothing is asked.
        text: the column. Lists of words are joined by spaces; a text is split at spaces and punctuation, and its words
            become the column `words`.
        tags: names of the student's classes in the order of their numbers, the IOB2 tags of the teacher's classes.
            None: those of the data's `label` or `labels`, if it names them, else the teacher's.
        ledger: file of answers, which several caches may share; None: one in `output_dir`.
        dtype: on disk, see `cache_teacher_outputs`.
    Returns:
        The rows with `teacher_logits` and `teacher_word_starts`, without those whose answer cannot be read (a warning
        gives their number), and what is known of all rows, `counts` among it.
    Raises:
        TypeError: a stream, or a column that holds something else than texts or lists of words.
        ValueError: tags that are not the teacher's or the data's, before anything is asked; texts in a script without
            spaces; no such column, blank texts, teacher columns that are there already, another teacher or other rows
            in `output_dir`; a function without a name, and the errors of `SpanTeacher.targets`.
        ConnectionError: a server that fails at every attempt.

    >>> rows, targets = cache_span_outputs(rows, teacher, output_dir="outputs/cache")  # doctest: +SKIP
    >>> targets.counts["asked"], targets.counts["spans"], targets.counts["widened"]  # doctest: +SKIP
    (5000, 8214, 37)
    """
    check_rows(dataset, text)
    if TEACHER_WORD_STARTS in dataset.column_names:
        raise ValueError(f"The data set has a column {TEACHER_WORD_STARTS} already: remove or rename it.")
    tags = _tags(dataset, teacher, tags)
    layout = Layout(None, 1.0, dtype, ())
    check_options(TASK, layout, BATCH, len(dataset))
    folder = output_folder(output_dir)
    sentences, dataset = _sentences(dataset, text)

    def ask() -> SpanTargets:
        return teacher.targets(sentences, tags=tags, ledger=ledger or folder / LEDGER)

    def found(made: SpanTargets, rows: slice) -> Found:
        logits = made.log_probabilities[rows]
        numbers = np.nan_to_num(np.concatenate(logits))  # int8 has no NaN
        return numbers, np.array([*map(len, logits)]), {HAS_TARGET: made.has_target[rows].astype(np.uint8)}

    # Row hashes are of whole numbers: the bytes of a text, and where its words stand.
    read = {
        "input_ids": [list(json.dumps([each.text, each.places]).encode()) for each in sentences],
        TEACHER_WORD_STARTS: [[1] * len(each.places) for each in sentences],
    }
    options = {"tags": tags, "question": teacher.question("{text}") if teacher.is_asked else None}
    origin = origin_of(teacher.shown, teacher.name, None, TASK, layout, options)
    cached, answers = cached_answers(read, AskedPass(TASK, layout, ask, found), folder, origin, len(tags), TOLD)
    known = np.array(cached.with_format("numpy")[HAS_TARGET]).astype(bool)
    pairs = zip(all_numbers(cached, LOGITS), known, strict=True)
    logits = [np.where(has, np.reshape(each, (-1, len(tags))), np.float32(np.nan)) for each, has in pairs]
    targets = SpanTargets(tags, logits, **answers)
    names = [*layout.names, TEACHER_WORD_STARTS]
    return with_targets(dataset, cached, names, known, "holds no list of spans"), targets


def _tags(dataset: datasets.Dataset, teacher: SpanTeacher, tags: Sequence[str] | None) -> list[str]:
    """The student's tags, which are those of the data too."""
    lists = [name for name, feature in dataset.features.items() if is_list(feature)]
    for column in (name for name in ("label", "labels") if name in lists):
        names = label_names(dataset.features[column])
        if names is not None and list(tags or names) != names:
            raise ValueError(f"tags: the column {column!r} has {names}, in this order; got {list(tags or ())}.")
        tags = teacher.checked_tags(tags or names, f"tags of the column {column!r}" if names else "tags")
        given = set().union(*(row or () for row in dataset.with_format(None)[column])) - {*tags, None}
        foreign = [each for each in given if not isinstance(each, int) or not IGNORE_INDEX <= each < len(tags)]
        if foreign:
            raise ValueError(
                f"tags: the column {column!r} has {sorted(map(str, foreign))[:10]}, and the tags are {tags}. Give the "
                "teacher the classes of the data, or the data the tags of the teacher's classes."
            )
    return teacher.checked_tags(tags)


def _sentences(dataset: datasets.Dataset, column: str) -> tuple[list[Sentence], datasets.Dataset]:
    """What the teacher reads of each row, and the rows with their words."""
    values = dataset.with_format(None)[column][:]
    if all(isinstance(value, str) for value in values):
        checked_texts(values)
        if WORDS in dataset.column_names:
            raise ValueError(
                f"text: the words of the texts in {column!r} would become the column {WORDS!r}, which is there. "
                f"Rename or remove it, or give text={WORDS!r} if it has the words."
            )
        if is_spaceless(values):
            raise ValueError(
                f"text: the texts in {column!r} are of a script without spaces between words. Split them into words, "
                "and give the column of lists."
            )
        sentences = [Sentence.of_text(value) for value in values]
        return sentences, dataset.add_column(WORDS, [sentence.words for sentence in sentences])
    for number, value in enumerate(values):
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise TypeError(
                f"text: expected a list of words, or a text, in each row of the column {column!r}; got {value!s:.80} "
                f"in row {number}."
            )
    return [Sentence.of_words(value) for value in values], dataset
