"""The `data` section of a recipe."""

from dataclasses import dataclass, field
from typing import Any, Literal


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

    texts: int
    mask: float = 0.1
    replace: float = 0.1
    ngram: float = 0.25
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


NEAR_DUPLICATES = "near-duplicates of held-out rows, left out"


@dataclass
class Data:
    """Where the texts come from and what becomes of them.

    Attributes:
        path: a Hub id; a local csv, tsv, json, jsonl, parquet or CoNLL file, or a folder of them; or a file inside an
            installed package as `package:name/path/in/it`. A CoNLL file has the columns `words` and `tags`.
        name: configuration of a Hub data set.
        text: column of the text, or two columns for pairs; for tagging the column of the words.
        target: of a translation, column of the text to write. Rows where it is empty lend their text alone.
        messages: of a dialogue, column of each conversation's messages: a list of `role` and `content`. None: `text` is
            the column of plain texts to continue.
        label: column of the label, numbers or names; for tagging one a word. A column of lists, or several columns of 0
            and 1, make a multi-label problem.
        labels: the classes, in order. None: all values of the column. Rows with another value have no label: they lend
            their text alone, which only the teacher labels.
        problem_type: `regression` where the label is a quantity; else it is found from the label.
        minimum: column → smallest value for a row's label to count; below it, or where it is empty, the row lends its
            text.
        together: column whose equal values stay on one side of every split: documents, speakers, conversations.
        train: split to train on.
        test: a split, or a number or share of labelled rows to hold out of `train`.
        validation: likewise.
        unlabelled: a split whose rows lend their text alone, beside those above.
        labelled: number of training rows that keep their label, drawn at random; the others lend their text. None: all.
        fidelity: number of rows without labels to hold out, to measure how faithful the student is.
        augment: how many new texts to make of the training texts, and how; only the teacher labels them.
        seed: of the splits; None: the recipe's, so that another seed tests on other rows.
        options: more arguments of `datasets.load_dataset`, `encoding` for instance.
    """

    path: str
    text: str | list[str] = "text"
    target: str = "target"
    messages: str | None = None
    label: str | list[str] = "label"
    name: str | None = None
    labels: list[str | int] | None = None
    problem_type: Literal["regression"] | None = None
    minimum: dict[str, float] = field(default_factory=dict)
    together: str | None = None
    train: str = "train"
    test: str | int | float = "test"
    validation: str | int | float = 0.1
    unlabelled: str | None = None
    labelled: int | None = None
    fidelity: int = 0
    augment: Augment | None = None
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def text_columns(self) -> list[str]:
        """The text's columns, one or two."""
        return [self.text] if isinstance(self.text, str) else list(self.text)

    @property
    def label_columns(self) -> list[str]:
        """The label's columns, one or several."""
        return [self.label] if isinstance(self.label, str) else list(self.label)
