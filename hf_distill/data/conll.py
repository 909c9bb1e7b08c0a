"""Reads files of the CoNLL family: a line a word, its columns beside each other, an empty line between sentences."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import datasets

from hf_distill.data.config import TAGS, WORDS
from hf_distill.data.delimited import opened, parsing

BLANK = " \t\r\n"  # a no-break space is part of a word
INDEX = re.compile(r"\d+([-.]\d+)?")  # 7, of several words together 7-8, of a word that is not in the text 7.1
NUMBER = re.compile(r"\d+")
CONLL_U = 10  # columns
MANY = 10  # different values, or words: fewer tell nothing


@dataclass
class _Token:
    line: int
    columns: list[str]


def read_conll(
    path: str | Path,
    encoding: str | None = None,
    *,
    words: int | None = None,
    tags: int | None = None,
    counts: Counter[str] | None = None,
) -> datasets.Dataset:
    """A CoNLL-style file: a line a word, its first column the word, its last the tag; an empty line ends a sentence.

    A sentence whose lines have one column has no tags. Lines that start with -DOCSTART- are left out, and so are
    comments: lines that start with # and have another number of columns than words have, or no tag. In files with a
    column of numbers in front, as CoNLL-U, lines of several words together (7-8) and of words that are not in the text
    (7.1) are left out too.

    Args:
        path: of the file, perhaps compressed; columns are separated by tabs if a line has one, else by blanks.
        encoding: None: UTF-8, with or without a byte-order mark.
        words: number of the words' column, from 0; negative ones count from the last. None: the first.
        tags: number of the tags' column likewise. None: the last.
        counts: gains the lines that are left out, by reason.
    Returns:
        The columns `words` and `tags`, lists of str; `tags` is None for a sentence without.
    Raises:
        ValueError: a sentence in which some words have a tag and some have none, or in which lines have different
            numbers of columns, with its line; a first column of numbers alone, or of one value a sentence, where
            `words` is None; a last one of numbers or words where `tags` is None; no such column; another encoding, or
            no word at all.
    """
    file = _ConllFile(Path(path), words, tags, Counter() if counts is None else counts)
    with parsing(path, "conll"), opened(path, encoding) as lines:
        sentences = list(_sentences(lines.readlines()))
    rows = list(file.rows(sentences))
    if not rows:
        raise ValueError(f"data.path: {path} has no word. Expected a line a word, and an empty line after a sentence.")
    features = datasets.Features({name: datasets.Sequence(datasets.Value("string")) for name in (WORDS, TAGS)})
    return datasets.Dataset.from_list(rows, features=features)


def _sentences(lines: list[str]) -> Iterator[list[_Token]]:
    tokens: list[_Token] = []
    spaced = any(" " in column.strip(BLANK) for line in lines if line[0] != "#" for column in line.split("\t")[1:])
    spaced = spaced or any(" " in line.split("\t")[0].strip(BLANK) for line in lines if "\t" in line and line[0] != "#")
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("-DOCSTART-"):
            tokens.append(_Token(number, _columns(line, spaced)))
        elif tokens:
            yield tokens
            tokens = []
    if tokens:
        yield tokens


def _columns(line: str, only_tabs: bool) -> list[str]:
    if "\t" in line or only_tabs:
        return [column.strip(BLANK) or column for column in line.rstrip("\r\n").split("\t")]  # a word may be a space
    return re.split(" +", line.strip(BLANK))


class _ConllFile:
    """One file, and which of its columns are what."""

    def __init__(self, path: Path, words: int | None, tags: int | None, counts: Counter[str]) -> None:
        self.path, self.words, self.tags, self.counts = path, words, tags, counts

    def rows(self, sentences: list[list[_Token]]) -> Iterator[dict[str, list[str] | None]]:
        """The words and tags of each sentence."""
        sentences = [kept for kept in self._without_comments(sentences) if kept]
        tokens_of_all = [token for tokens in sentences for token in tokens]
        if all(len(token.columns) > 1 and not token.columns[-1] for token in tokens_of_all):
            for token in tokens_of_all:  # each line ends with a tab
                token.columns.pop()
        indexed = self._is_indexed(sentences)
        if sentences:
            self._check_columns(sentences, indexed)
        for tokens in sentences:
            if indexed and self.words not in (None, 0):
                whole = tokens
                tokens = [token for token in tokens if NUMBER.fullmatch(token.columns[0])]
                self._count("lines of several words together or of none (7-8, 7.1), left out", len(whole) - len(tokens))
            if tokens:
                yield self._row(tokens)

    def _row(self, tokens: list[_Token]) -> dict[str, list[str] | None]:
        widths = {len(token.columns) for token in tokens}
        tagged = [token for token in tokens if len(token.columns) > 1]
        end = tokens[-1].line + 1
        if len(tagged) not in (0, len(tokens)):
            raise ValueError(
                f"{self.path.name}: in the sentence that ends before line {end}, {len(tokens) - len(tagged)} of "
                f"{len(tokens)} words have no tag. Expected a tag for every word, or for none."
            )
        if len(widths) > 1:
            usual = Counter(len(token.columns) for token in tokens).most_common(1)[0][0]
            odd = next(token for token in tokens if len(token.columns) != usual)
            raise ValueError(
                f"{self.path.name}, line {odd.line}, has {len(odd.columns)} columns and the others of its sentence "
                f"{usual}: {' '.join(odd.columns)!r:.80}. If words have blanks in them, separate columns by tabs."
            )
        words = [self._cell(token, 0 if self.words is None else self.words) for token in tokens]
        if not tagged:
            return {WORDS: words, TAGS: None}
        tags = [self._cell(token, -1 if self.tags is None else self.tags) for token in tokens]
        if not all(tags) and any(tags):
            raise ValueError(
                f"{self.path.name}: in the sentence that ends before line {end}, {tags.count('')} of {len(tags)} words "
                "have no tag. Expected a tag for every word, or for none."
            )
        return {WORDS: words, TAGS: tags if any(tags) else None}

    def _cell(self, token: _Token, number: int) -> str:
        try:
            return token.columns[number]
        except IndexError:
            raise ValueError(
                f"{self.path.name}, line {token.line}: there is no column {number}, it has {len(token.columns)}: "
                f"{_numbered(token.columns)}. Set data.text and data.label to columns that are there."
            ) from None

    def _without_comments(self, sentences: list[list[_Token]]) -> Iterator[list[_Token]]:
        """The sentences without the lines that start with # and are no words."""
        number = -1 if self.tags is None else self.tags
        plain = [[token for token in tokens if not _is_marked(token)] for tokens in sentences]
        widths = Counter(len(token.columns) for tokens in plain for token in tokens)
        sure = [token for tokens in sentences for place, token in enumerate(tokens) if place or not _is_marked(token)]
        tags = {token.columns[number] for token in sure if -len(token.columns) <= number < len(token.columns)}

        def is_word(token: _Token, others: list[_Token], first: bool) -> bool:
            columns = token.columns
            if not _is_marked(token) or not widths:
                return True
            if len(columns) not in ({len(other.columns) for other in others} or widths) or columns[1:2] == ["="]:
                return False
            return columns[0] != "#" or not first or len(columns) == 1 or columns[number] in tags

        for tokens, others in zip(sentences, plain, strict=True):
            kept = [token for place, token in enumerate(tokens) if is_word(token, others, not place)]
            self._count("comment lines, left out", len(tokens) - len(kept))
            yield kept

    def _count(self, reason: str, number: int) -> None:
        if number:
            self.counts[reason] += number

    def _is_indexed(self, sentences: list[list[_Token]]) -> bool:
        """Whether the first column numbers the words."""
        return bool(sentences) and all(
            len(token.columns) > 1 and INDEX.fullmatch(token.columns[0]) for tokens in sentences for token in tokens
        )

    def _check_columns(self, sentences: list[list[_Token]], indexed: bool) -> None:
        """Raise where the first column cannot be the words, or the last not the tags."""
        long = [tokens for tokens in sentences if len(tokens) > 2 and len(tokens[0].columns) > 2]
        constant = len(long) > 1 and all(len({token.columns[0] for token in tokens}) == 1 for tokens in long)
        token = next(
            (token for tokens in sentences for token in tokens if NUMBER.fullmatch(token.columns[0])), sentences[0][0]
        )
        width = len(token.columns)
        word = (
            1 if indexed else next((n for n, cell in enumerate(token.columns) if n and not NUMBER.fullmatch(cell)), 1)
        )
        tag = 3 if width == CONLL_U else width - 1
        if self.words is None and (indexed or constant):
            fault = f"the first column holds {'numbers only' if indexed else 'one value a sentence'}, not the words"
        elif indexed and self.tags is None and width == CONLL_U:
            fault = "a line has ten columns, as in CoNLL-U, and the last of them holds no tags"
        elif self.tags is None and (found := self._fault_of_tags(sentences)) is not None:
            fault = found
            word, tag = (width - 1, 0) if "round" in found else (0, width - 2)
        else:
            return
        advice = f"for instance data.text: {word} and data.label: {tag}"
        if word == tag:
            advice = f"data.text: 0 and data.label: {width - 1} if these are words"
        raise ValueError(
            f"data.path: {self.path.name}: {fault}. Give the columns of words and tags by number, counted from 0, "
            f"{advice}. Line {token.line} has {_numbered(token.columns)}."
        )

    def _fault_of_tags(self, sentences: list[list[_Token]]) -> str | None:
        """Why the last column cannot be the tags; None where it can."""
        tagged = [tokens for tokens in sentences if all(len(token.columns) > 1 for token in tokens)]
        long = [[token.columns[-1] for token in tokens] for tokens in tagged if len(tokens) > 2]
        if len(long) > 1 and all(column[0] in ("0", "1") and _counts_up(column) for column in long):
            return "the last column numbers the words of a sentence and holds no tags"
        first, last = ({token.columns[place] for tokens in tagged for token in tokens} for place in (0, -1))
        if self.words is None and len(last) >= MANY and len(last) > len(first):
            return (
                f"the last column has {len(last)} different values and the first {len(first)}: they look like words "
                "and tags the other way round"
            )
        place = 0 if self.words is None else self.words
        pairs = [(self._cell(token, place), token.columns[-1]) for token in chain(*tagged)]
        spelled = [word.casefold() == tag.casefold() for word, tag in pairs if any(map(str.isalpha, word))]
        if len(spelled) >= MANY and 2 * sum(spelled) > len(spelled):
            return "the last column repeats most words, as a column of lemmas does, and holds no tags"
        return None


def _counts_up(column: list[str]) -> bool:
    numbers = [int(cell) for cell in column if cell.isdecimal()]
    return numbers == list(range(numbers[0], numbers[0] + len(column)))


def _is_marked(token: _Token) -> bool:
    return token.columns[0].startswith("#")


def _numbered(columns: list[str]) -> str:
    return ", ".join(f"{number}: {column!r}" for number, column in enumerate(columns))
