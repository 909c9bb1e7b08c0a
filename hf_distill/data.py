"""Load, clean, split and tokenise; all of it through `datasets`."""

import importlib.util
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_distill.columns import PREFIX
from hf_distill.tasks import IGNORE_INDEX

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
PACKAGE = "package:"


@dataclass
class Data:
    """Where the texts come from and what becomes of them.

    Attributes:
        path: a Hub id, a local csv, tsv, json, jsonl or parquet file, a folder of them, or a file inside an installed
            package as `package:name/path/in/it`.
        name: configuration of a Hub data set.
        text: column of the text, or two columns for pairs.
        label: column of the label, numbers or names.
        labels: the classes, in order. None: all values of the column. Rows with another value have no label: they lend
            their text alone, which only the teacher labels.
        minimum: column → smallest value for a row's label to count; below it, or where it is empty, the row lends its
            text.
        train: split to train on.
        test: a split, or a number or share of labelled rows to hold out of `train`.
        validation: likewise.
        unlabelled: a split whose rows lend their text alone, beside those above.
        fidelity: number of rows without labels to hold out, to measure how faithful the student is.
        options: more arguments of `datasets.load_dataset`, `encoding` for instance.
    """

    path: str
    text: str | list[str] = "text"
    label: str = "label"
    name: str | None = None
    labels: list[str | int] | None = None
    minimum: dict[str, float] = field(default_factory=dict)
    train: str = "train"
    test: str | int | float = "test"
    validation: str | int | float = 0.1
    unlabelled: str | None = None
    fidelity: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def text_columns(self) -> list[str]:
        """The text's columns, one or two."""
        return [self.text] if isinstance(self.text, str) else list(self.text)


@dataclass
class Splits:
    """A data set cut for a distillation. Each has `text`, for pairs `text_pair`, and `label` (-100: none).

    Attributes:
        train: with labels.
        unlabelled: text that only the teacher labels.
        validation: selects the model; with labels.
        test: is read once, at the end; with labels.
        fidelity: text held out without labels.
        classes: names of the labels, by their number.
        counts: rows read, kept and left out, each with its reason.
    """

    train: datasets.Dataset
    unlabelled: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    fidelity: datasets.Dataset
    classes: list[str]
    counts: dict[str, int]


def resolve(path: str) -> str:
    """A path or Hub id as it is, or `package:name/path` as the file in that installed package.

    Raises:
        ValueError: the package or the file is not there.
    """
    if not path.startswith(PACKAGE):
        return path
    package, _, inside = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{path}: the package {package!r} is not installed. Install it with pip.")
    found = Path(next(iter(spec.submodule_search_locations))) / inside
    if not found.exists():
        raise ValueError(f"{path}: the package {package!r} has no file {inside!r}.")
    return str(found)


def load(data: Data, seed: int = 0) -> Splits:
    """Read, clean and split.

    Texts are stripped; empty texts and exact duplicates (case aside) are left out, the first one stays.
    Near-duplicates, texts equal but for URLs, mentions, RT, digits, punctuation and case, never stand on two sides of a
    split: where one is held out, the others are held out too or left out. Everything left out is counted in
        `Splits.counts`.

    Args:
        data: what to read.
        seed: of the random splits.
    Raises:
        ValueError: a missing file, split or column; a split that comes out empty; fewer than two classes.
    """
    source = _read(data)
    if data.train not in source:
        raise ValueError(f"data.train: {data.path} has no split {data.train!r}, it has {', '.join(source)}.")
    counts: dict[str, int] = defaultdict(int)
    classes = [_label_name(label) for label in data.labels or _classes(source[data.train], data)]
    if len(classes) < 2:
        raise ValueError(f"data.labels: expected at least two classes, got {classes} from the column {data.label!r}.")

    seen: set[tuple[str, ...]] = set()
    held: dict[str, list[dict[str, Any]]] = {}
    for part in ("test", "validation"):
        split = getattr(data, part)
        if isinstance(split, str):
            if split not in source:
                raise ValueError(
                    f"data.{part}: {data.path} has no split {split!r}, it has {', '.join(source)}. "
                    f"Name one of them, or give a number or share of rows to hold out of {data.train!r}."
                )
            rows = _rows(source[split], data, classes, seen, counts)
            held[part] = [row for row in rows if row["label"] != IGNORE_INDEX]
    if {"test", "validation"} <= held.keys():
        tested = {_group(row) for row in held["test"]}
        kept = [row for row in held["validation"] if _group(row) not in tested]
        counts["near-duplicates of held-out rows, left out"] += len(held["validation"]) - len(kept)
        held["validation"] = kept
    rows = _rows(source[data.train], data, classes, seen, counts)
    if data.unlabelled is not None:
        if data.unlabelled not in source:
            raise ValueError(
                f"data.unlabelled: {data.path} has no split {data.unlabelled!r}, it has {', '.join(source)}."
            )
        extra = _rows(source[data.unlabelled], data, classes, seen, counts)
        rows += [row | {"label": IGNORE_INDEX} for row in extra]

    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[_group(row)].append(row)
    for row in [row for part in held.values() for row in part]:
        counts["near-duplicates of held-out rows, left out"] += len(groups.pop(_group(row), []))
    order = [list(groups)[index] for index in np.random.default_rng(seed).permutation(len(groups))]
    labelled_rows = sum(row["label"] != IGNORE_INDEX for group in groups.values() for row in group)
    for part in ("test", "validation"):
        size = getattr(data, part)
        if not isinstance(size, str):
            wanted = size if isinstance(size, int) else round(size * labelled_rows)
            held[part] = _hold_out(groups, order, wanted, part, counts)
    fidelity = _hold_out(groups, order, data.fidelity, "fidelity", counts, labelled=False)

    left = [row for group in groups.values() for row in group]
    parts = {
        "train": [row for row in left if row["label"] != IGNORE_INDEX],
        "unlabelled": [row for row in left if row["label"] == IGNORE_INDEX],
        "fidelity": fidelity,
        **held,
    }
    for part in ("train", "validation", "test"):
        if not parts[part]:
            raise ValueError(
                f"data: no labelled rows are left for {part}. {data.path} has {labelled_rows} rows with a label among "
                f"{classes}; data.test={data.test!r} and data.validation={data.validation!r} are taken from them."
            )
    counts |= {part: len(rows) for part, rows in parts.items()}
    return Splits(**{part: _dataset(rows, data) for part, rows in parts.items()}, classes=classes, counts=dict(counts))


def near_duplicate_key(text: str) -> str:
    """What is left of a text without URLs, mentions, RT, digits, punctuation and case.

    >>> near_duplicate_key("RT @ann: See http://t.co/x, 3 times!") == near_duplicate_key("see 4 times")
    True
    """
    text = re.sub(r"https?:\S*|www\.\S+|@\w+|\brt\b|&\w+;", " ", text.lower())
    return " ".join(re.findall(r"[^\W\d_]+", text))


def tokenise(
    dataset: datasets.Dataset,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    teacher_tokenizer: Any = None,
    teacher_max_length: int | None = None,
) -> datasets.Dataset:
    """The rows as a student reads them, and as its teacher does where it has its own tokenizer.

    Args:
        dataset: with `text`, perhaps `text_pair`, and `label`.
        tokenizer: the student's.
        max_length: tokens, longer texts are cut; None: the tokenizer's own limit.
        teacher_tokenizer: makes `teacher_input_ids` and its companions; None: the teacher reads `input_ids`.
        teacher_max_length: likewise.
    Returns:
        `input_ids`, `attention_mask`, ..., `labels`, and the teacher's columns.
    """

    def encode(rows: dict[str, list[str]]) -> dict[str, Any]:
        texts = [rows[name] for name in ("text", "text_pair") if name in rows]
        encoded = dict(tokenizer(*texts, truncation=True, max_length=max_length))
        if teacher_tokenizer is not None:
            said = teacher_tokenizer(*texts, truncation=True, max_length=teacher_max_length)
            encoded |= {PREFIX + name: value for name, value in said.items()}
        return encoded

    texts = [name for name in ("text", "text_pair") if name in dataset.column_names]
    tokenised = dataset.map(encode, batched=True, remove_columns=texts, desc="Tokenise", keep_in_memory=True)
    return tokenised.rename_column("label", "labels") if "label" in tokenised.column_names else tokenised


def _read(data: Data) -> datasets.DatasetDict:
    path = resolve(data.path)
    suffixes = [suffix for suffix in Path(path).suffixes if suffix in FORMATS]
    options = dict(data.options)
    if Path(path).is_file():
        if not suffixes:
            raise ValueError(f"data.path: {path} is not one of the known formats {', '.join(FORMATS)}.")
        if suffixes[-1] == ".tsv":
            options.setdefault("sep", "\t")
        return datasets.load_dataset(FORMATS[suffixes[-1]], data_files={data.train: path}, **options)
    if not Path(path).is_dir() and (suffixes or path.startswith(("/", "./", "../"))):
        raise ValueError(f"data.path: there is no file {path}.")
    loaded = datasets.load_dataset(path, data.name, **options)
    return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({data.train: loaded})


def _classes(dataset: datasets.Dataset, data: Data) -> list[str]:
    _check_columns(dataset, [data.label], "data.label")
    feature = dataset.features[data.label]
    if isinstance(feature, datasets.ClassLabel):
        return feature.names
    return [_label_name(value) for value in sorted(value for value in dataset.unique(data.label) if value is not None)]


def _label_name(value: Any) -> str:
    # One empty cell makes a whole csv column of whole numbers into floats.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _check_columns(dataset: datasets.Dataset, names: Sequence[str], key: str) -> None:
    for name in names:
        if name not in dataset.column_names:
            raise ValueError(f"{key}: there is no column {name!r}, the data has {', '.join(dataset.column_names)}.")


def _rows(
    dataset: datasets.Dataset, data: Data, classes: list[str], seen: set[tuple[str, ...]], counts: dict[str, int]
) -> list[dict[str, Any]]:
    _check_columns(dataset, data.text_columns, "data.text")
    _check_columns(dataset, list(data.minimum), "data.minimum")
    numbers = {name: number for number, name in enumerate(classes)}
    feature = dataset.features.get(data.label)
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    columns = [*data.text_columns, *data.minimum, *([data.label] if feature is not None else [])]
    rows = []
    for row in dataset.select_columns(columns):
        counts["rows read"] += 1
        texts = tuple(str(row[name] or "").strip() for name in data.text_columns)
        key = tuple(text.lower() for text in texts)
        if not all(texts):
            counts["empty texts, left out"] += 1
        elif key in seen:
            counts["duplicates, left out"] += 1
        else:
            seen.add(key)
            value = row.get(data.label)
            name = names[value] if names is not None and value is not None and value >= 0 else _label_name(value)
            sure = all((row[column] or 0) >= least for column, least in data.minimum.items())
            rows.append({"texts": texts, "label": numbers.get(name, IGNORE_INDEX) if sure else IGNORE_INDEX})
    return rows


def _group(row: dict[str, Any]) -> str:
    # A text with no letters at all is only like itself.
    return " | ".join(near_duplicate_key(text) or text for text in row["texts"])


def _hold_out(
    groups: dict[str, list[dict[str, Any]]],
    order: list[str],
    wanted: int,
    part: str,
    counts: dict[str, int],
    labelled: bool = True,
) -> list[dict[str, Any]]:
    """Take whole groups out of `groups` until `wanted` rows are found, labelled ones or wholly unlabelled groups."""
    taken: list[dict[str, Any]] = []
    for key in order:
        if len(taken) >= wanted:
            break
        group = groups.get(key, [])
        with_label = [row for row in group if row["label"] != IGNORE_INDEX]
        useful = with_label if labelled else ([] if with_label else group)
        if useful and len(taken) + len(useful) <= wanted:
            taken += useful
            counts["near-duplicates of held-out rows, left out"] += len(group) - len(useful)
            del groups[key]
    if len(taken) < wanted:
        raise ValueError(
            f"data.{part}: asked for {wanted} rows {'with' if labelled else 'without'} a label, found {len(taken)}. "
            "Ask for fewer."
        )
    return taken


def _dataset(rows: list[dict[str, Any]], data: Data) -> datasets.Dataset:
    names = ["text", "text_pair"][: len(data.text_columns)]
    content = {name: [row["texts"][index] for row in rows] for index, name in enumerate(names)}
    return datasets.Dataset.from_dict(
        {**content, "label": [row["label"] for row in rows]},
        features=datasets.Features(
            {**{name: datasets.Value("string") for name in names}, "label": datasets.Value("int64")}
        ),
    )
