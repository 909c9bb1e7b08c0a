"""Looks through csv and tsv files before they are read: quotation marks, cells a row, number of rows."""

import csv
import errno
import io
import json
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import fsspec
import pandas
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError

# With other options only pandas can tell what a row is.
DIALECT = {"quotechar", "escapechar", "doublequote", "skipinitialspace"}
OF_ROWS = {"sep", "delimiter", "encoding", "quoting", *DIALECT, "header", "names", "index_col", "usecols", "skiprows"}
KNOWN = {*OF_ROWS, "column_names", "nrows", "engine", "low_memory", "memory_map", "chunksize"}
TO_PANDAS = {*OF_ROWS, "comment"}
# What the libraries that decompress and parse files raise for content that is broken, beside errors of an encoding.
BROKEN = (
    *(EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, csv.Error),
    RuntimeError,  # of zipfile, for a password or a method that it does not have; RecursionError, of deep JSON, is one
    *(pa.ArrowException, pandas.errors.ParserError, pandas.errors.EmptyDataError, DatasetGenerationError),
)
_EOF = (
    '. A quotation mark (") opens a text and none closes it. Close it; or, where quotation marks are characters like '
    "others, set data.options: {quoting: 3}."
)
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
KNOWN_VALUES = 1000  # of a column; one with more is a column of texts


@dataclass
class Inspection:
    """What a csv or tsv file looks like.

    Attributes:
        columns: names, as pandas makes them of the header.
        rows: how many will be read; None where options are set with which only pandas can tell.
        options: `quoting`, where the options leave it open.
        counts: what there is to tell, by reason.
    """

    columns: list[str]
    rows: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class _Row:
    cells: list[str]
    line: int  # number of its first one, from 1
    raw: list[str]  # its lines, more than one where a quoted cell has a line end


def opened(path: str | Path, encoding: str | None = None) -> TextIO:
    """A text file, decompressed by its suffix, with its line ends as they are.

    Args:
        path: of the file.
        encoding: None: UTF-8, of which a byte-order mark is no part of the text.
    Raises:
        ValueError: there is no such encoding.
    """
    check_encoding(encoding)
    known = (encoding or "utf-8").lower().replace("_", "-")
    reading = "utf-8-sig" if known in ("utf-8", "utf8") else known
    return fsspec.open(str(path), mode="rt", encoding=reading, newline="", compression="infer").open()


def check_encoding(encoding: Any) -> None:
    """Raise a ValueError unless Python reads texts in an encoding; None is the one of `opened`."""
    try:
        fits = isinstance(encoding, str | None) and encoding != ""
        if fits:
            io.TextIOWrapper(io.BytesIO(), encoding)
    except (LookupError, ValueError):  # which it raises for what is no encoding, or none of texts
        fits = False
    if not fits:
        raise ValueError(
            f"data.options: there is no encoding {encoding!r}. Expected utf-8, cp1252, utf-16 or another one that "
            "Python knows, or leave it out."
        )


@contextmanager
def parsing(path: str | Path, kind: str, *, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Around everything that parses a file: what its library raises becomes a ValueError that names the file.

    Args:
        path: of the file, or of several.
        kind: of the file, as `read` calls it.
        also: more that the library raises, where nothing else is called.
    """
    try:
        yield
    except UnicodeError as error:
        raise ValueError(wrong_encoding(path, error)) from error
    except (*BROKEN, *also, OSError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, UnicodeError):
            raise ValueError(wrong_encoding(path, cause)) from error
        # A broken archive points to a place that is not in the file; another number is of the disk, not of the content.
        if isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL):
            raise
        raise ValueError(broken(path, kind, cause)) from error


def broken(path: str | Path, kind: str, error: BaseException) -> str:
    """What to say of a file that its library cannot read."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    advice = _EOF if "EOF inside string" in reason else ". Is the file whole, and what its suffix says? Write it again."
    return f"data.path: {path} cannot be read as {kind}: {reason.rstrip('.')}{advice}"


def wrong_encoding(path: str | Path, error: UnicodeError) -> str:
    """What to say of a file that is in another encoding than it is read in."""
    return (
        f"data.path: {path} cannot be read in this encoding: {error}. Set data.options: {{encoding: cp1252}}, or "
        "utf-16, or whatever it was saved in; or save it as UTF-8."
    )


def inspect(path: str, separator: str, options: dict[str, Any]) -> Inspection:
    """Look through a csv or tsv file.

    Args:
        path: of the file.
        separator: of its cells, where the options have none.
        options: of `datasets.load_dataset`.
    Raises:
        ValueError: no header, no row, another encoding, rows that are longer than the header, or quotation marks that
            make one row of several.
    """
    separator = options.get("sep") or options.get("delimiter") or separator
    known = options.keys() <= KNOWN and isinstance(options.get("skiprows"), int | None)
    known = known and options.get("header", 0) in (None, 0, "infer") and len(separator) == 1
    with parsing(path, "csv"):
        inspector = _Inspector(path, separator, options)
        return inspector.inspection() if known else Inspection(inspector.columns(), options=inspector.found_options)


def _header(path: str, **options: Any) -> list[str]:
    # Where rows are longer than the header their first cell is no column; the header alone does not tell.
    return [str(name) for name in pandas.read_csv(path, nrows=1, dtype=str, **options).columns]


class _Inspector:
    """Goes through one file, and refuses what cannot be told apart."""

    def __init__(self, path: str, separator: str, options: dict[str, Any]) -> None:
        self.path, self.separator, self.options = path, separator, options
        self.encoding, self.mark = options.get("encoding"), options.get("quotechar", '"')
        asked, skipped = options.get("quoting"), options.get("skiprows")
        self.skipped = skipped if isinstance(skipped, int) else 0
        self.quoting: Any = asked if asked is not None else self._found_quoting()
        self.found_options = {} if asked is not None else {"quoting": self.quoting}
        self.names = options.get("column_names") or options.get("names")
        self.dialect = {name: options[name] for name in DIALECT & options.keys()}
        self._ends: dict[str, int] = {}  # how rows end → line of the first one

    @property
    def _has_header(self) -> bool:
        # As pandas has it: names of one's own, and no word on the header, mean that there is none.
        asked = self.options.get("header", "infer")
        return self.names is None if asked == "infer" else asked is not None

    def columns(self) -> list[str]:
        """The names of the columns."""
        asked = {name: value for name, value in self.options.items() if name in TO_PANDAS - {"sep", "delimiter"}}
        named = {} if self.names is None else {"names": self.names}
        return _header(self.path, **{**asked, **named, **self.found_options, "sep": self.separator})

    def inspection(self) -> Inspection:
        """What the file looks like."""
        with opened(self.path, self.encoding) as file:
            rows = self._rows(islice(file, self.skipped, None))
            header = next(rows, None)
            if header is None:
                raise ValueError(
                    f"data.path: {self.path} cannot be read as csv: the file is empty. Expected a line with the names "
                    "of the columns, and a line for each row."
                )
            if not self._has_header:
                rows = chain([header], rows)
                header = _Row(list(map(str, self.names or range(len(header.cells)))), header.line, [])
            self._check_separator(header)
            found = self._look_through(header, rows)
        if not found.rows:
            raise ValueError(
                f"data.path: {self.path} has the header {self.separator.join(header.cells)!r} and no row. Expected a "
                "line with the names of the columns, and a line for each row."
            )
        found.columns, found.options = self.columns(), self.found_options
        found.rows = None if "nrows" in self.options else found.rows
        return found

    def _check_separator(self, header: _Row) -> None:
        """Raise a ValueError where a header of one cell has another separator in it, and none was asked for."""
        if len(header.cells) > 1 or {"sep", "delimiter"} & self.options.keys():
            return
        other = next((each for each in SEPARATORS if each in header.cells[0]), None)
        if other is not None:
            asked, own = (json.dumps({"sep": each}).replace('"sep"', "sep") for each in (other, self.separator))
            raise ValueError(
                f"data.path: {self.path}: the header is one cell, {header.cells[0]!r:.80}. If {SEPARATORS[other]} "
                f"separate the columns, set data.options: {asked}; if that is the name of the only column, {own}."
            )

    def _look_through(self, header: _Row, rows: Iterable[_Row]) -> Inspection:
        width = len(header.cells)
        most = width + ("index_col" in self.options)
        longer, merged = [], []
        values: list[Counter[str]] = [Counter() for _ in header.cells]
        counts: Counter[str] = Counter()
        number = 0
        for row in rows:
            number += 1
            if len(row.cells) > most:
                longer.append(row)
            if len(row.cells) < width:
                counts["rows with fewer cells than the header, filled up with empty ones"] += 1
                self._check_cut(row, width)
            if self.mark in "".join(row.raw) and not self._is_strict(row):
                counts["rows in which quotation marks stand where a csv writer sets none, read as they are"] += 1
            if len(row.raw) > 1:
                counts["line ends within quoted cells"] += len(row.raw) - 1
                merged.append(row)
            else:
                for known, cell in zip(values, row.cells, strict=False):
                    if len(known) < KNOWN_VALUES or cell in known:
                        known[cell] += 1
        if longer:
            raise ValueError(self._longer(header, longer, number))
        if len(self._ends) > 1:
            first = self._ends["\r"]
            raise ValueError(
                f"data.path: {self.path}: line {first} ends with a carriage return alone, and others with a line feed. "
                "One within a text would make two rows of it. Remove it, set such texts between quotation marks, or "
                "end all lines alike."
            )
        often = [{value for value, count in known.items() if count > 1} for known in values]
        for row in merged:
            self._check_merged(row, header.cells, often)
        return Inspection([], number, counts=counts)

    def _rows(self, file: Iterable[str]) -> Iterator[_Row]:
        """The rows of a file, without blank lines."""
        raw: list[str] = []

        def noted() -> Iterator[str]:
            for text in file:
                raw.append(text)
                yield text

        csv.field_size_limit(2**31 - 1)
        reader = self._parsed(noted())
        line = self.skipped + 1
        blanks = " \r\n" if self.separator == "\t" else " \t\r\n"
        for cells in reader:
            if "".join(raw).strip(blanks):
                yield _Row(cells, line, list(raw))
                if raw[-1].endswith(("\r", "\n")):
                    self._ends.setdefault(raw[-1][-1], line)
            line = self.skipped + reader.line_num + 1
            raw.clear()

    def _parsed(self, lines: Iterable[str], **changes: Any) -> Any:
        """A reader of the cells of some lines."""
        settings = {"delimiter": self.separator, "quoting": self.quoting, **self.dialect, **changes}
        return csv.reader(lines, **settings)

    def _is_strict(self, row: _Row) -> bool:
        """Whether quotation marks stand as a csv writer sets them; raises where a backslash is in front of some."""
        if self.quoting == csv.QUOTE_NONE:
            return True
        try:
            list(self._parsed(row.raw, strict=True))
        except csv.Error:
            if f"\\{self.mark}" in "".join(row.raw) and "escapechar" not in self.dialect:
                raise ValueError(
                    f"data.path: {self.path}, line {row.line}, has \\{self.mark} within {self.mark}: "
                    f"{''.join(row.raw).strip()!r:.60}. Set data.options: {{escapechar: '\\'}} if a backslash stands "
                    f"before each {self.mark} of a text, or double them: {self.mark * 2}."
                ) from None
            return False
        return True

    def _found_quoting(self) -> int:
        """In csv quotation marks quote. In files with tabs they do only where all of them are set as a writer does."""
        if self.separator != "\t":
            return csv.QUOTE_MINIMAL
        with opened(self.path, self.encoding) as file:
            text = "".join(islice(file, self.skipped, None))
        return csv.QUOTE_MINIMAL if is_quoted(text, self.separator, self.mark) else csv.QUOTE_NONE

    @property
    def _advice(self) -> str:
        return (
            f"Where {self.mark} is a character like others, set data.options: {{quoting: 3}}; else mend the file: a "
            f"text with the separator, a line end or {self.mark} in it stands between {self.mark}, and each "
            f"{self.mark} in it is doubled."
        )

    def _check_cut(self, row: _Row, width: int) -> None:
        """Raise where a line of a file without quoting ends within a quoted text."""
        last = row.cells[-1] if row.cells else ""
        if self.quoting == csv.QUOTE_NONE and last.startswith(self.mark) and last.count(self.mark) % 2:
            raise ValueError(
                f"data.path: {self.path}, line {row.line}, has {len(row.cells)} of {width} cells and ends in a text "
                f"that {self.mark} opens: {last!r:.60}. Other quotation marks of the file do not quote, so a text with "
                "a line end or a tab in it cannot be told from several rows. Write the file as jsonl or csv."
            )

    def _check_merged(self, row: _Row, names: list[str], often: list[set[str]]) -> None:
        """Raise where a row of several lines would be several rows without its quotation marks."""
        where = f"data.path: {self.path}: lines {row.line} to {row.line + len(row.raw) - 1} are one row by their marks"
        try:
            strict = list(self._parsed(row.raw, strict=True))
        except csv.Error as error:
            raise ValueError(f"{where} ({self.mark}): {error}. {self._advice}") from error
        plain = list(self._parsed(row.raw, quoting=csv.QUOTE_NONE))
        if len(strict) != 1 or any(len(cells) != len(names) for cells in plain):
            return
        for number, name in enumerate(names):
            inside = {cells[number].strip(self.mark) for cells in plain}
            if inside <= often[number]:
                raise ValueError(
                    f"{where} ({self.mark}), but each line looks like a row: its {name!r} is "
                    f"{' or '.join(map(repr, sorted(inside)))}. {self._advice}"
                )

    def _longer(self, header: _Row, longer: list[_Row], rows: int) -> str:
        """What to say of rows with more cells than the header."""
        width, first = len(header.cells), longer[0]
        mark = "a tab" if self.separator == "\t" else "a comma" if self.separator == "," else repr(self.separator)
        where = f"data.path: {self.path}, line {first.line}, has {len(first.cells)} cells and the header {width}"
        if not any(cell for row in longer for cell in row.cells[width:]):
            which = "each line" if len(longer) == rows else f"each of {len(longer)} lines"
            return f"{where}: {which} ends with {mark} more than the header. Remove it, or add a name to the header."
        if len(longer) == rows:
            return (
                f"{where}, as all rows do. Add the missing name to the header; if the first cell is the number of the "
                "row, set data.options: {index_col: 0}; if the first line is no header, {skiprows: 1} leaves it out."
            )
        return f"{where}: {''.join(first.raw).strip()!r:.80}. {self._advice}"


def is_quoted(text: str, separator: str, mark: str = '"') -> bool:
    """Whether the quotation marks of a file quote: all are set as a csv writer sets them.

    That is around cells that need it (with a separator, a line end or a doubled mark in them), or around every cell of
    a column. A file that has one cell a column in each line as it is has no line end in a cell, so it is not quoted.

    Args:
        text: of the whole file.
        separator: one character.
        mark: one character.

    >>> is_quoted('text\\tlabel\\n"a\\tb"\\tx', "\\t"), is_quoted('text\\tlabel\\n"a\\tx\\nb"\\ty', "\\t")
    (True, False)
    """
    if mark not in text:
        return False
    lines = [line.split(separator) for line in re.split(r"\r\n|\n|\r", text) if line]
    if len({len(cells) for cells in lines}) == 1 and any(cell.count(mark) % 2 for cells in lines for cell in cells):
        return False
    cell = re.compile(
        rf"({mark}[^{mark}]*(?:{mark}{mark}[^{mark}]*)*{mark}|[^{mark}{separator}\r\n]*)({separator}|\r\n|\n|\r|\Z)"
    )
    place = row = column = 0
    unneeded: set[int] = set()
    bare: set[int] = set()
    while place < len(text):
        found = cell.match(text, place)
        if found is None:
            return False
        content, end = found.groups()
        if row and content.startswith(mark):
            if not set(content[1:-1]) & {mark, separator, "\r", "\n"}:
                unneeded.add(column)
        elif row and content:
            bare.add(column)
        place, column = found.end(), column + 1
        if end != separator:
            row, column = row + 1, 0
    return not unneeded & bare
