"""Reads rows from files, folders and the Hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from hf_distill.paths import resolve

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
}
WORDS, TAGS = "words", "tags"


def read(path: str, name: str | None = None, split: str = "train", **options: Any) -> datasets.DatasetDict:
    """A data set by its path.

    Args:
        path: a Hub id; a local csv, tsv, json, jsonl, parquet or CoNLL file (it becomes the split `split`); a folder of
            them, each file named after its split, if one is called `split` (other folders are read as `load_dataset`
            reads them); or `package:name/path`.
        name: configuration of a Hub data set.
        split: what a single file is called.
        options: more arguments of `datasets.load_dataset`, `encoding` for instance.
    Raises:
        ValueError: no such file, an unknown format, or a file that is empty or broken.
    """
    path = resolve(path)
    suffix = next((suffix for suffix in reversed(Path(path).suffixes) if suffix in FORMATS), None)
    if Path(path).is_file():
        if suffix is None:
            raise ValueError(f"data.path: {path} is not one of the known formats {', '.join(FORMATS)}.")
        if FORMATS[suffix] == "conll":
            return datasets.DatasetDict({split: read_conll(path, **options)})
        return _read_files({split: path}, suffix, options)
    if Path(path).is_dir():
        files = [file for file in sorted(Path(path).iterdir()) if file.suffix in FORMATS]
        tagged = [file for file in files if FORMATS[file.suffix] == "conll"]
        if tagged:
            return datasets.DatasetDict({file.stem: read_conll(file, **options) for file in tagged})
        # load_dataset knows shards and sub-folders, but few names of splits.
        for first in (file for file in files if file.stem == split):
            alike = {file.stem: str(file) for file in files if file.suffix == first.suffix}
            return _read_files(alike, first.suffix, options)
    elif suffix is not None or path.startswith(("/", "./", "../")):
        raise ValueError(f"data.path: there is no file {path}.")
    loaded = datasets.load_dataset(path, name, **options)
    return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({split: loaded})


def _read_files(files: dict[str, str], suffix: str, options: dict[str, Any]) -> datasets.DatasetDict:
    """Files of one format, by the names of their splits."""
    separator = {"sep": "\t"} if suffix == ".tsv" else {}
    try:
        return datasets.load_dataset(FORMATS[suffix], data_files=files, **(separator | options))
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(
            f"data.path: {', '.join(files.values())} cannot be read as {FORMATS[suffix]}: {error.__cause__ or error}"
        ) from error


def read_conll(path: str | Path, encoding: str = "utf-8") -> datasets.Dataset:
    """A CoNLL-style file: a line a word, its first column the word, its last the tag; an empty line ends a sentence.

    A sentence whose lines have one column has no tags. Lines that start with -DOCSTART- are left out.

    Args:
        path: of the file; columns are separated by tabs if a line has one, else by blanks.
        encoding: of the file.
    Returns:
        The columns `words` and `tags`, lists of str; `tags` is None for a sentence without.
    Raises:
        ValueError: a sentence in which some words have a tag and some have none, with its line.
    """
    rows = list(_sentences(Path(path), encoding))
    features = datasets.Features({name: datasets.Sequence(datasets.Value("string")) for name in (WORDS, TAGS)})
    return datasets.Dataset.from_list(rows, features=features)


def _sentences(path: Path, encoding: str) -> Iterator[dict[str, list[str] | None]]:
    lines: list[list[str]] = []
    with path.open(encoding=encoding) as file:
        for number, line in enumerate([*file, "\n"], start=1):
            columns = [column.strip() for column in (line.split("\t") if "\t" in line else line.split())]
            if columns and columns[0] and not columns[0].startswith("-DOCSTART-"):
                lines.append(columns)
            elif lines:
                tagged = sum(len(columns) > 1 for columns in lines)
                if tagged not in (0, len(lines)):
                    raise ValueError(
                        f"{path.name}: in the sentence that ends before line {number}, {len(lines) - tagged} of "
                        f"{len(lines)} words have no tag. Expected a tag for every word, or for none."
                    )
                yield {
                    WORDS: [columns[0] for columns in lines],
                    TAGS: [columns[-1] for columns in lines] if tagged else None,
                }
                lines = []
