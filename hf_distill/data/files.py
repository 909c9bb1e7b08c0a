"""Reads rows from files, folders and the Hub."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules.csv.csv import CsvConfig

from hf_distill.data.config import TAGS, WORDS
from hf_distill.data.conll import read_conll
from hf_distill.data.delimited import check_encoding, inspect, opened, parsing
from hf_distill.paths import naming, resolve

CONLL = "conll"
FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    **dict.fromkeys((".conll", ".conllu", ".bio", ".iob", ".iob2", ".bioes", ".iobes"), CONLL),
}
SAVED = ("dataset_dict.json", "state.json")  # by save_to_disk
COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")

# Arguments of `load_dataset` that its builder does not take.
OF_LOADING = {"split", "streaming", "num_proc", "keep_in_memory", "verification_mode", "save_infos"}


def read(
    path: str,
    name: str | None = None,
    split: str = "train",
    *,
    conll_columns: Mapping[str, int] | None = None,
    counts: Counter[str] | None = None,
    **options: Any,
) -> datasets.DatasetDict:
    """A data set by its path.

    The cells of csv and tsv files are strings, spelled as they are in the file; an empty one is None.

    Args:
        path: a Hub id; a local csv, tsv, json, jsonl, parquet, arrow or CoNLL file, perhaps compressed (it becomes the
            split `split`); a folder of them, each file named after its split, if one is called `split` (other folders
            are read as `load_dataset` reads them); or `package:name/path`.
        name: configuration of a Hub data set.
        split: what a single file is called.
        conll_columns: numbers of the columns `words` and `tags` of CoNLL files, see `read_conll`.
        counts: gains what there is to tell of the files, by reason: lines that are left out, for instance.
        options: more arguments of `datasets.load_dataset`, `encoding` for instance.
    Raises:
        ValueError: no such file, an unknown format, a file that is empty or broken, or columns by number in a file that
            names its columns.
    """
    check_encoding(options.get("encoding"))
    path = resolve(path)
    counts = Counter() if counts is None else counts
    suffix = suffix_of(Path(path))
    files: dict[str, str] = {}
    if Path(path).is_file():
        if suffix is None:
            raise ValueError(
                f"data.path: {path} is not one of the known formats {', '.join(FORMATS)}. Rename it if it has one of "
                "them."
            )
        files = {split: path}
    elif Path(path).is_dir():
        if any((Path(path) / name).is_file() for name in SAVED):
            return _saved(path, split)
        suffix, files = _files_of_splits(Path(path), split, counts)
    elif suffix is not None or path.startswith(("/", "./", "../")):
        raise ValueError(f"data.path: there is no file {path}.")
    kind = FORMATS[suffix] if suffix is not None and files else None
    if kind == CONLL:
        numbers = conll_columns or {}
        return datasets.DatasetDict(
            {
                part: read_conll(file, words=numbers.get(WORDS), tags=numbers.get(TAGS), counts=counts, **options)
                for part, file in files.items()
            }
        )
    if conll_columns:
        raise ValueError(
            f"data.text and data.label: {', '.join(map(str, conll_columns.values()))} are columns by number, as CoNLL "
            f"files have them, and {path} names its columns. Write the name; one of digits stands in quotes."
        )
    if kind == "csv":
        separator = "\t" if suffix == ".tsv" else ","
        parts = {part: _read_delimited(file, separator, options, counts) for part, file in files.items()}
        return datasets.DatasetDict(parts)
    if kind is not None:
        return _loaded(kind, files, options)
    with parsing(path, "a data set") if Path(path).exists() else naming("data.path", path):
        if not OF_LOADING & options.keys():
            builder = datasets.load_dataset_builder(path, name, **options)
            if isinstance(builder.config, CsvConfig) and builder.info.features is None:
                return _read_shards(builder.config, options, counts)
        loaded = datasets.load_dataset(path, name, **options)
    return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({split: loaded})


def _read_shards(config: CsvConfig, options: dict[str, Any], counts: Counter[str]) -> datasets.DatasetDict:
    """The csv or tsv files that the library found in a folder or on the Hub."""
    settings = {name: value for name, value in options.items() if name in CsvConfig.__dataclass_fields__}
    return datasets.DatasetDict(
        {
            str(part): datasets.concatenate_datasets(
                [_read_delimited(file, config.sep, settings, counts) for file in files]
            )
            for part, files in config.data_files.items()
        }
    )


def suffix_of(path: Path) -> str | None:
    """The suffix that tells a file's format, the one in front of `.gz` where it is compressed."""
    return next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() in FORMATS), None)


def _saved(path: str, split: str) -> datasets.DatasetDict:
    """A folder of `save_to_disk`, in which other files may be what `map` left there."""
    with parsing(path, "a data set"):
        saved = datasets.load_from_disk(path)
    return saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict({split: saved})


def _files_of_splits(folder: Path, split: str, counts: Counter[str]) -> tuple[str | None, dict[str, str]]:
    """The suffix of a folder's files, and each file by the name of its split; none where the library names them."""
    found: list[tuple[str, str, str]] = []  # suffix, name of the split, path
    for file in sorted(folder.iterdir()):
        plain = Path(file.stem) if file.suffix.lower() in COMPRESSED else Path(file.name)
        if plain.suffix.lower() in FORMATS:
            found.append((plain.suffix.lower(), plain.stem, str(file)))
    kinds = [suffix for suffix, _, _ in found if FORMATS[suffix] == CONLL]
    # load_dataset finds shards and sub-folders, but few names of splits.
    kinds += [suffix for suffix, name, _ in found if name == split]
    if not kinds:
        return None, {}
    alike = [suffix for suffix in FORMATS if FORMATS[suffix] == CONLL] if FORMATS[kinds[0]] == CONLL else kinds[:1]
    files: dict[str, str] = {}
    for suffix, name, path in found:
        if suffix not in alike:
            counts[f"files of another format than {kinds[0]}, not read: {Path(path).name}"] += 1
        elif name in files:
            raise ValueError(
                f"data.path: {folder} has two files of the split {name!r}, {Path(files[name]).name} and "
                f"{Path(path).name}. Keep one of them, or rename the other."
            )
        else:
            files[name] = path
    return kinds[0], files


def _read_delimited(file: str, separator: str, options: dict[str, Any], counts: Counter[str]) -> datasets.Dataset:
    """A csv or tsv file, every cell a string."""
    found = inspect(file, separator, options)
    counts.update(found.counts)
    strings = datasets.Features({name: datasets.Value("string") for name in found.columns})
    missing = {"keep_default_na": False, "na_values": [""]}
    settings = {"sep": separator, "features": strings, **missing, **found.options, **options}
    read = _loaded("csv", {"rows": file}, settings)["rows"]
    if found.rows is not None and len(read) != found.rows:
        raise ValueError(
            f"data.path: {file} has {found.rows} rows, and {len(read)} were read. Quotation marks may stand where they "
            "do not belong: where they are characters like others, set data.options: {quoting: 3}."
        )
    return read


def _loaded(kind: str, files: dict[str, str], options: dict[str, Any]) -> datasets.DatasetDict:
    """Files of one format, by the names of their splits."""
    names = ", ".join(files.values())
    if kind == "json":
        for file in files.values():
            _check_json(file, options.get("encoding"))
    with parsing(names, kind, also=(ValueError,)):
        loaded = datasets.load_dataset(kind, data_files=files, **options)
    for part, file in files.items():
        if part not in loaded or not len(loaded[part]):
            raise ValueError(f"data.path: {file} has no row.")
    return loaded


def _check_json(file: str, encoding: str | None) -> None:
    """Raise where a file has no row, or is in another encoding: the library would tell only of the row it reads."""
    content = ""
    with parsing(file, "json"), opened(file, encoding) as lines:
        for line in lines:
            content = content if len(content) > len("[]") else content + line.strip()
    if content in ("", "[]"):
        raise ValueError(
            f"data.path: {file} cannot be read as json: the file is empty. Expected an object for each row."
        )
