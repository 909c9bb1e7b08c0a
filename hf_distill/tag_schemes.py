"""Schemes of entity tags: IOB1, IOB2, IOBES (BIOES, BMES, BMEWO) and BILOU, which are recognised, checked and read."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence

from hf_distill.environment import optional

ENTITY_TAG = re.compile(r"O|[BIESLUMW](-.+)?")
LIKE_ONE = re.compile(r"[BIESLUMW][-_].+|.+[-_][BIESLUMW]", flags=re.IGNORECASE)
SAME = {"L": "E", "U": "S", "M": "I", "W": "S"}  # the letters of BILOU, BMES and BMEWO → those of IOBES
IOB1, IOB2, IOBES, BILOU = "IOB1", "IOB2", "IOBES", "BILOU"

Spans = Callable[[Sequence[str]], set[tuple[str, int, int]]]


def tag_scheme(names: Collection[str]) -> str | None:
    """The scheme of some tags, as far as their first letters tell it; None where they are no tags of entities.

    Args:
        names: of the tags. Tags of IOB1 and IOB2 have the same names: see `illegal_tags`.

    >>> tag_scheme(["O", "B-PER", "I-PER"]), tag_scheme(["S-PER", "O"]), tag_scheme(["U-PER"]), tag_scheme(["NN", "O"])
    ('IOB2', 'IOBES', 'BILOU', None)
    """
    tags = [name for name in names if name]
    if not tags or not all(ENTITY_TAG.fullmatch(name) for name in tags):
        return None
    if not any("-" in name for name in tags) and not {"B", "O"} & set(tags):
        return None
    letters = {name[0] for name in tags} - {"O"}
    if not letters:
        return None
    if letters <= {"B", "I"}:
        return IOB2
    return BILOU if letters & {"L", "U"} and not letters & {"E", "S", "M", "W"} else IOBES


def odd_tags(names: Collection[str]) -> list[str]:
    """The tags that keep some from being read as a scheme of entities, as at least two of them look.

    Args:
        names: of all tags.

    >>> odd_tags(["B-PER", "I-PER", "0"]), odd_tags(["B_PER", "I_PER", "O"]), odd_tags(["NN", "VB", "O"])
    (['0'], ['B_PER', 'I_PER'], [])
    """
    if tag_scheme(names) is not None or sum(bool(LIKE_ONE.fullmatch(name)) for name in names) < 2:
        return []
    return [name for name in names if not ENTITY_TAG.fullmatch(name)]


def illegal_tags(sentences: Iterable[Sequence[str]], scheme: str) -> tuple[str, int]:
    """Check the order of tags.

    Args:
        sentences: names of their words' tags.
        scheme: of `tag_scheme`.
    Returns:
        the scheme, IOB1 in place of IOB2 where fewer tags are illegal in it; and how many tags may not stand where they
            do: an I- without an entity to go on with, for instance.

    >>> illegal_tags([["O", "I-PER", "I-PER", "B-PER"]], "IOB2")
    ('IOB1', 0)
    """
    illegal = dict.fromkeys((IOB1, IOB2, IOBES), 0)
    for sentence in sentences:
        before, kind_before = "O", ""
        for name in [*sentence, "O"]:
            letter = SAME.get(name[:1], name[:1]) or "O"
            kind = name[2:]
            inside = before in ("B", "I") and kind == kind_before
            illegal[IOB1] += letter == "B" and not inside
            illegal[IOB2] += letter == "I" and not inside
            goes_on = letter in ("I", "E")
            illegal[IOBES] += goes_on != (before in ("B", "I")) or (goes_on and not inside)
            before, kind_before = letter, kind
    if scheme == IOB2 and illegal[IOB1] < illegal[IOB2]:
        return IOB1, illegal[IOB1]
    return scheme, illegal[IOB2 if scheme == IOB2 else IOBES]


def spans_of(names: Collection[str]) -> Spans:
    """What reads the entities of a sentence: their type, first and last word.

    In IOBES and BILOU an entity is complete, with its end; IOB1 and IOB2 are read as seqeval reads them unless it is
    told otherwise (and as `conlleval` does): an I- without an entity to go on with begins one.

    Args:
        names: of all tags.
    Raises:
        ImportError: seqeval is not installed.
    """
    scheme = tag_scheme(names)
    if scheme not in (IOBES, BILOU):
        entities = optional("seqeval.metrics.sequence_labeling", "tagging").get_entities
        return lambda tags: set(entities(list(tags)))
    schemes = optional("seqeval.scheme", "tagging")
    kind = getattr(schemes, scheme)

    def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
        read = schemes.Tokens(in_letters(tags, scheme), kind)
        return {(entity.tag, entity.start, entity.end - 1) for entity in read.entities}

    return spans


def in_letters(tags: Iterable[str], scheme: str) -> list[str]:
    """Tags in the letters that seqeval knows for a scheme: the M of BMES is the I of IOBES."""
    if scheme == BILOU:
        return list(tags)
    return [SAME.get(name[:1], name[:1]) + name[1:] for name in tags]
