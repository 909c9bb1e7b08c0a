"""The `data` section of a recipe."""

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_distill.checked import POSITIVE, SEED, Limits, limited

HELD_OUT = Limits(1, share=True)  # a number of rows, or a share of them
PROBABILITY = Limits(0.0, 1.0)


@dataclass
class Augment:
    """How new texts are made from old ones. Rates and lengths are those of Tang et al.

    The old texts are gone through in random order, again and again. Each word of one becomes the mask token with
    probability `mask`, or another word with probability `replace`; then with probability `ngram` one to five
    neighbouring words are all that is kept.

    The other word is drawn from the corpus, the old texts themselves: among the words seen after the same left
    neighbour and before the same right one, perhaps not both at once, in proportion to c(left, word) · c(word, right) /
    c(word), which is how a bigram model fills the place. A word without such another stays. This stands for Tang et
    al.'s words of the same part of speech, and needs no tagger.

    Attributes:
        texts: how many new ones to make, from all old ones together.
        mask: probability a word.
        replace: probability a word.
        ngram: probability a text.
        masked_language_model: a Hub id or folder of a model that reads both ways and fills masks; the other word is
            then one of the 15 whole words that it finds most likely, each as often (TinyBERT). None: the corpus.
        distinct: whether a new text that, case and spaces aside, equals an old one or another new one is left out.
    Raises:
        ValueError: a number out of range, probabilities that change nothing, or a masked language model that would
            never be asked.
    Source:
        Tang et al. 2019, arXiv:1903.12136, section 3.2. TinyBERT, Jiao et al. 2020, arXiv:1909.10351, section 3.2,
        which masks one place at a time; here all that are to be replaced are masked together.
    """

    texts: int = limited(Limits(1, 10**9))
    mask: float = limited(PROBABILITY, 0.1)
    replace: float = limited(PROBABILITY, 0.1)
    ngram: float = limited(PROBABILITY, 0.25)
    masked_language_model: str | None = None
    distinct: bool = True

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise ValueError(f"augment.texts: expected at least one new text, got {self.texts}.")
        for name in ("mask", "replace", "ngram"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"augment.{name} is a probability, from 0 to 1; got {value}.")
        if self.mask + self.replace > 1:
            raise ValueError(
                f"augment.mask={self.mask} and augment.replace={self.replace}: a word is masked or replaced, so these "
                "probabilities are at most 1 together."
            )
        if self.mask == self.replace == self.ngram == 0:
            raise ValueError("augment: mask, replace and ngram are all 0, so every new text would be an old one.")
        if self.masked_language_model is not None and self.replace == 0:
            raise ValueError(
                f"augment.masked_language_model={self.masked_language_model!r} finds words for those replaced, and "
                "augment.replace is 0. Raise replace (TinyBERT has 0.4), or leave the model out."
            )


WORDS, TAGS = "words", "tags"
NEAR_DUPLICATES = "near-duplicates of held-out rows, left out"


@dataclass
class Data:
    """Where the texts come from and what becomes of them.

    Attributes:
        path: a Hub id; a local csv, tsv, json, jsonl, parquet, arrow or CoNLL file, perhaps compressed (`.gz`), or a
            folder of them; or a file inside an installed package as `package:name/path/in/it`. The cells of csv and tsv
            are strings as they are spelled, and in tsv a quotation mark is a character like others, unless the whole
            file is quoted. A CoNLL file has the columns `words` and `tags`.
        name: configuration of a Hub data set.
        text: column of the text, or two columns for pairs; for tagging the column of the words. Of a CoNLL file a
            number, counted from 0: `text: 1` where an index stands in front of each word.
        target: of a translation, column of the text to write. Rows where it is empty are used as unlabelled text.
        messages: of a dialogue, column of each conversation's messages: a list of `role` and `content`. None: `text` is
            the column of plain texts to continue.
        label: column of the label, numbers or names; for tagging one a word. A column of lists, a column with
            `label_separator`, or several columns of 0 and 1 (-1: not labelled) make a multi-label problem. Of a CoNLL
            file a number, counted from 0 and, for negative ones, from the end: -1 is the last column.
            None: no text has a label, and a teacher behind a prompt gives all of them.
        labels: the classes, in order. None: all values of the column, numerals sorted as numbers. Rows with another
            value have no label: they are used as unlabelled text, which only the teacher labels.
        label_separator: what stands between several labels in one cell, `;` for instance. None: a cell is one label.
        missing: values that mean "no label", "no target" or "no text", `[NA]` for instance. Only an empty field is
            missing without being listed: `None`, `null` or `nan` are labels and texts like others.
        problem_type: `regression` where the label is a quantity; else it is found from the label.
        minimum: column → smallest value for a row's label to count; below it, or where it is empty, the row is used as
            unlabelled text.
        together: column whose equal values stay on one side of every split: documents, speakers, conversations.
        train: split to train on.
        test: a split, or a number or share of labelled rows to hold out of `train`.
        validation: likewise.
        unlabelled: a split whose rows are used as unlabelled text, beside those above.
        labelled: number of training rows that keep their label, drawn at random; the others are used as unlabelled
            text. None: all.
        fidelity: number of rows without labels to hold out, to measure how faithful the student is.
        augment: how many new texts to make of the training texts, and how; only the teacher labels them.
        labelled_test: where no text has a label, a small set with labels that is for the test alone: the fields of
            `data` in which it differs, `path` and `label` for instance. Near-duplicates of it are not trained on.
        seed: of the splits; None: the recipe's, so that another seed tests on other rows.
        options: more arguments of `datasets.load_dataset`: `encoding`, or of csv and tsv `sep` and `quoting`.
    Raises:
        ValueError: an empty `label_separator`, or one beside several label columns; no column of a text or a label,
            more than two of a text, or one twice.
    """

    path: str
    text: str | int | list[str] = "text"
    target: str = "target"
    messages: str | None = None
    label: str | int | list[str] | None = "label"
    name: str | None = None
    labels: list[str | int] | None = None
    label_separator: str | None = None
    missing: list[str | int] = field(default_factory=list)
    problem_type: Literal["regression"] | None = None
    minimum: dict[str, float] = field(default_factory=dict)
    together: str | None = None
    train: str = "train"
    test: str | int | float = limited(HELD_OUT, "test")
    validation: str | int | float = limited(HELD_OUT, 0.1)
    unlabelled: str | None = None
    labelled: int | None = limited(POSITIVE, None)
    fidelity: int = limited(Limits(0), 0)
    augment: Augment | None = None
    labelled_test: dict[str, Any] | None = None
    seed: int | None = limited(SEED, None)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.label_separator is not None and (not self.label_separator or isinstance(self.label, list)):
            raise ValueError(
                f"data.label_separator={self.label_separator!r} parts the labels in the cells of one column; expected "
                f"one character or more, and one column in data.label, got {self.label!r}."
            )
        given = [("text", self.text_columns, 2)]
        given += [("label", self.label_columns, 10_000)] if self.label is not None else []
        for key, columns, most in given:
            if not 0 < len(columns) <= most or len(set(columns)) < len(columns):
                several = "one column or two different ones" if most == 2 else "one column or several different ones"
                raise ValueError(f"data.{key}: expected {several}, got {columns}.")

    @property
    def text_columns(self) -> list[str]:
        """The text's columns, one or two."""
        if isinstance(self.text, int):
            return [WORDS]
        return [self.text] if isinstance(self.text, str) else list(self.text)

    @property
    def label_columns(self) -> list[str]:
        """The label's columns, one or several; none where no text has a label."""
        if self.label is None:
            return []
        if isinstance(self.label, int):
            return [TAGS]
        return [self.label] if isinstance(self.label, str) else list(self.label)

    @property
    def conll_columns(self) -> dict[str, int]:
        """The columns of a CoNLL file that are given by number: `words`, `tags`, both or none."""
        named = {WORDS: self.text, TAGS: self.label}
        return {name: number for name, number in named.items() if isinstance(number, int)}

    @property
    def missing_values(self) -> frozenset[str]:
        """The values that `missing` lists, as strings."""
        return frozenset(str(value).strip() for value in self.missing)
