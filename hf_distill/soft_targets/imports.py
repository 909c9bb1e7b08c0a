"""Caches of other libraries as this one's top-k columns: axolotl's and DistillKit's."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from hf_distill import columns
from hf_distill.paths import read_yaml
from hf_distill.soft_targets.layout import Layout, id_type

AXOLOTL = ("input_ids", "target_logprobs", "target_token_ids", "target_mask")
DISTILLKIT = ("input_ids", "compressed_logprobs", "bytepacked_indices")
LEGACY = ("packed_indices", "exact_values", "coeffs")
DTYPES = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}
PADDING = -1e8  # axolotl fills with -inf or -1e9
SLACK = 2e-2  # how much more than 1 rounded probabilities may sum to
FEWEST, MARGIN = 64, 0.1  # positions, and the share of them, by which an alignment is told from another


def from_axolotl(
    dataset: datasets.Dataset, *, vocab_size: int, temperature: float, alignment: str = "current"
) -> datasets.Dataset:
    """Rows that axolotl prepared, with this library's top-k columns in place of its own.

    Its layout, a row of `length` tokens: `input_ids` and `labels` (length,), and `target_token_ids`,
    `target_logprobs` and `target_mask` (length, k): the most likely tokens at a position, their log-probabilities at
    `kd_temperature`, normalised over the k, and 1 where they count. Row j is about token j + 1 (`current`) or, up to
    axolotl 0.18, about token j (`legacy`).

    Its log-probabilities have no rest, so the tail is -inf where they sum to 1, and what is missing from 1 elsewhere.

    Args:
        dataset: prepared by axolotl; its other columns are kept.
        vocab_size: of the student and the teacher, who share a tokenizer.
        temperature: axolotl's `kd_temperature`; the columns do not say it, and training must use the same.
        alignment: `current` or `legacy`, as axolotl's `kd_prepared_targets_alignment`.
    Returns:
        The rows with `teacher_top_k_logits`, `teacher_top_k_ids`, `teacher_tail` and `teacher_temperature`.
    Raises:
        ValueError: columns that are missing or of other lengths, ids beyond the vocabulary, numbers that are no
            log-probabilities, a labelled token without a distribution, or another alignment.
    Source:
        axolotl, `integrations/kd` (README and `chat_template.py`).

    >>> row = {"input_ids": [1, 2], "labels": [-100, 2], "target_mask": [[1, 1], [0, 0]]}
    >>> row |= {"target_token_ids": [[2, 3], [0, 1]], "target_logprobs": [[-0.1054, -2.3026], [-1e9, -1e9]]}
    >>> made = from_axolotl(datasets.Dataset.from_list([row]), vocab_size=5, temperature=1.0)
    >>> made[0]["teacher_top_k_ids"]
    [[2, 3], [0, 1]]
    """
    _check_names(dataset, AXOLOTL)
    if alignment not in ("current", "legacy"):
        raise ValueError(f"alignment: expected current or legacy, got {alignment!r}.")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a finite number > 0, got {temperature}.")
    rows = [_axolotl_row(row, number, alignment) for number, row in enumerate(_read(dataset))]
    return _with_columns(dataset, AXOLOTL[1:], rows, vocab_size, temperature)


def from_distillkit(
    dataset: datasets.Dataset, *, config: str | Path | Mapping[str, Any], vocab_size: int | None = None
) -> datasets.Dataset:
    """Rows of DistillKit's sampler, with this library's top-k columns in place of its compressed ones.

    Its layout, a row of `length` tokens: `input_ids` (length,); `bytepacked_indices` and `compressed_logprobs`, a list
    of bytes a position, of which there are `length` - 1: the first is about the second token. The indices are k numbers
    of ceil(log2(d)) bits, the highest bit first. The log-probabilities, in falling order, are `exact_k` numbers of
    `exact_dtype`, then the coefficients of `polynomial_terms`, then for each of `residual_bins` a scale and its
    elements of `element_bits`; with `delta_encoding` all but the first are differences. The config of the set
    (`compression_config.yaml` beside it) has these names.

    Args:
        dataset: written by DistillKit's sampler.
        config: the set's `compression_config.yaml`, or its content.
        vocab_size: None: the config's `d`.
    Returns:
        The rows with `teacher_top_k_logits`, `teacher_top_k_ids`, `teacher_tail` and `teacher_temperature` (1).
    Raises:
        ValueError: columns that are missing, the older layout (`packed_indices`), a config with pieces that are not
            known, bytes of another length, or numbers that are no log-probabilities.
    Source:
        DistillKit, `distillkit/compression` and `sample_logits_vllm.py`.

    >>> rows = from_distillkit(dataset, config="logits/compression_config.yaml")  # doctest: +SKIP
    """
    old = [name for name in LEGACY if name in dataset.column_names]
    if old:
        raise ValueError(
            f"The set has DistillKit's older layout ({', '.join(old)}), which is not read here: its polynomials are of "
            "another kind. Write it again with DistillKit's present sampler."
        )
    _check_names(dataset, DISTILLKIT)
    form = _Compression.read(config)
    rows = [_distillkit_row(row, number, form) for number, row in enumerate(_read(dataset))]
    return _with_columns(dataset, DISTILLKIT[1:], rows, vocab_size or form.d, 1.0)


@dataclass
class _Targets:
    """What is known of one row: (length, k) ids and log-probabilities, and (length,) whether a position is known."""

    ids: np.ndarray
    logprobs: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class _Bin:
    dtype: np.dtype
    bits: int
    elements: int


@dataclass(frozen=True)
class _Compression:
    """How DistillKit compressed a set; see `from_distillkit`."""

    d: int
    k: int
    exact_k: int
    exact_dtype: np.dtype
    terms: tuple[int | str, ...]
    term_dtype: np.dtype
    bins: tuple[_Bin, ...]
    delta: bool
    normalize_t: bool

    @classmethod
    def read(cls, config: str | Path | Mapping[str, Any]) -> "_Compression":
        content = dict(config) if isinstance(config, Mapping) else read_yaml(config)
        known = {"d", "k", "exact_k", "exact_dtype", "polynomial_terms", "term_dtype", "residual_bins"}
        known |= {"delta_encoding", "error_diffusion", "normalize_t"}  # error diffusion does not change how it is read
        unknown = sorted({*content} - known)
        missing = sorted({"d", "k", "exact_k", "residual_bins"} - {*content})
        if unknown or missing:
            raise ValueError(
                f"DistillKit's compression config: {', '.join(unknown) or 'nothing'} is not known, and "
                f"{', '.join(missing) or 'nothing'} is missing. Expected the keys {', '.join(sorted(known))}."
            )
        terms = tuple(content.get("polynomial_terms") or ())
        if any(not isinstance(term, int) and term not in ("sqrt", "exp") for term in terms):
            raise ValueError(f"DistillKit's polynomial_terms: expected whole numbers, sqrt or exp; got {list(terms)}.")
        bins = tuple(
            _Bin(_dtype(each["scale_dtype"]), int(each["element_bits"]), int(each["num_elements"]))
            for each in content["residual_bins"]
        )
        return cls(
            int(content["d"]),
            int(content["k"]),
            int(content["exact_k"]),
            _dtype(content.get("exact_dtype", "float32")),
            terms,
            _dtype(content.get("term_dtype", "float32")),
            bins,
            bool(content.get("delta_encoding", True)),
            bool(content.get("normalize_t", False)),
        )

    @property
    def index_bits(self) -> int:
        return math.ceil(math.log2(self.d))

    @property
    def index_bytes(self) -> int:
        return -(-self.k * self.index_bits // 8)

    @property
    def logprob_bytes(self) -> int:
        found = self.exact_k * self.exact_dtype.itemsize + len(self.terms) * self.term_dtype.itemsize
        return found + sum(each.dtype.itemsize + -(-each.bits * each.elements // 8) for each in self.bins)

    def logprobs(self, packed: np.ndarray) -> np.ndarray:
        """(positions, k) float64 from (positions, bytes)."""
        rows, place = len(packed), 0

        def numbers(dtype: np.dtype, count: int) -> np.ndarray:
            nonlocal place
            part = np.ascontiguousarray(packed[:, place : place + count * dtype.itemsize])
            place += part.shape[1]
            return part.view(dtype).reshape(rows, count).astype(np.float64)

        exact = numbers(self.exact_dtype, self.exact_k)
        coefficients = numbers(self.term_dtype, len(self.terms))
        rest = np.zeros((rows, self.k - self.exact_k))
        start = 0
        for each in self.bins:
            scale = numbers(each.dtype, 1)
            size = -(-each.bits * each.elements // 8)
            elements = _unpacked(packed[:, place : place + size], each.bits, each.elements)
            place += size
            # One bit is a sign; more bits count from their lowest number.
            signed = elements * 2.0 - 1 if each.bits == 1 else elements - 2.0 ** (each.bits - 1)
            rest[:, start : start + each.elements] = signed * scale
            start += each.elements
        if self.terms:
            rest += coefficients @ self._points().T
        found = np.concatenate([exact, rest], axis=1)
        return found.cumsum(axis=1) if self.delta else found

    def _points(self) -> np.ndarray:
        """(k - exact_k, terms), the terms at each of the approximated places."""
        size = self.k - self.exact_k
        places = np.linspace(0, 1, size) if self.normalize_t else np.arange(size, dtype=np.float64)
        functions = {"sqrt": np.sqrt, "exp": np.exp}
        made = [functions[term](places) if isinstance(term, str) else places**term for term in self.terms]
        return np.stack(made, axis=1)


def _axolotl_row(row: dict[str, Any], number: int, alignment: str) -> _Targets:
    lengths = {name: len(row[name]) for name in AXOLOTL}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Row {number} has columns of several lengths: {lengths}. Expected one entry a token in each.")
    width = {len(each) for name in AXOLOTL[1:] for each in row[name]}
    if len(width) > 1:
        raise ValueError(f"Row {number} keeps {sorted(width)} tokens a position: expected one number of them.")
    logprobs = np.array(row["target_logprobs"], dtype=np.float64)
    ids = np.array(row["target_token_ids"], dtype=np.int64)
    mask = np.array(row["target_mask"], dtype=bool)
    if alignment == "legacy":  # about token j: one position earlier here
        logprobs, ids, mask = (np.concatenate([each[1:], each[:1]]) for each in (logprobs, ids, mask))
        mask[-1] = False
    logprobs = np.where(mask & (logprobs > PADDING), logprobs, -np.inf)
    known = np.array([np.isfinite(each).any() for each in logprobs])
    labels = row.get("labels")
    if labels is not None:
        lacking = np.flatnonzero((np.array(labels[1:]) != columns.IGNORED) & ~known[:-1])
        if len(lacking):
            raise ValueError(
                f"Row {number} has a label at position {lacking[0] + 1} and no distribution of the teacher for it. "
                f"Is alignment={alignment!r} right? Else set such labels to {columns.IGNORED}."
            )
    return _Targets(ids, logprobs, known)


def _distillkit_row(row: dict[str, Any], number: int, form: _Compression) -> _Targets:
    length, rows = len(row["input_ids"]), len(row["compressed_logprobs"])
    if rows != len(row["bytepacked_indices"]) or rows != length - 1:
        raise ValueError(
            f"Row {number} has {length} tokens, {rows} positions of log-probabilities and "
            f"{len(row['bytepacked_indices'])} of indices: expected one less than tokens, from the second on."
        )
    packed = _bytes(row["compressed_logprobs"], form.logprob_bytes, number, "compressed_logprobs")
    indices = _bytes(row["bytepacked_indices"], form.index_bytes, number, "bytepacked_indices")
    empty = np.zeros((1, form.k))
    ids = np.concatenate([_unpacked(indices, form.index_bits, form.k), empty.astype(np.int64)])
    known = np.arange(length) < length - 1
    return _Targets(ids, np.concatenate([form.logprobs(packed), empty - np.inf]), known)


def _with_columns(
    dataset: datasets.Dataset, names: Sequence[str], rows: list[_Targets], vocab_size: int, temperature: float
) -> datasets.Dataset:
    """The rows with this library's columns in place of `names`."""
    widths = {each.ids.shape[1] for each in rows}
    if len(widths) > 1:
        raise ValueError(f"The rows keep {sorted(widths)} tokens a position: expected one number of them.")
    width = widths.pop()
    layout = Layout(width, temperature, "float32", ())
    _check_alignment(dataset, rows)

    def made() -> Iterator[dict[str, Any]]:
        for number, targets in enumerate(rows):
            yield _columns(targets, number, vocab_size, layout)

    new = datasets.Dataset.from_list(list(made()), features=_features(vocab_size, width))
    return datasets.concatenate_datasets([dataset.remove_columns([*names]), new], axis=1)


def _columns(targets: _Targets, number: int, vocab_size: int, layout: Layout) -> dict[str, Any]:
    """One row's columns; a position that is not known has equally likely tokens, and no loss reads it."""
    known = targets.known[:, None]
    width = targets.ids.shape[1]
    ids = np.where(known, targets.ids, np.arange(width))
    beyond = (ids < 0) | (ids >= vocab_size)
    if beyond.any():
        raise ValueError(
            f"Row {number} has the token {ids[beyond][0]}, and the vocabulary has {vocab_size}: the set was made with "
            "another tokenizer."
        )
    logprobs = np.where(known, targets.logprobs, -np.log(vocab_size))
    ids = np.array([_distinct(*each, number) for each in zip(ids.tolist(), logprobs.tolist(), strict=True)])
    mass = np.exp(logprobs).sum(axis=1)
    if np.isnan(logprobs).any() or (mass > 1 + SLACK).any():
        raise ValueError(
            f"Row {number} has log-probabilities that sum to a probability of {np.nanmax(mass):.3f}, or that are no "
            "numbers: expected log-probabilities, which sum to at most 1."
        )
    rest = np.where(mass < 1 - 1e-6, np.log(np.maximum(1 - mass, 1e-30)), -np.inf)
    kept = torch.from_numpy(logprobs.astype(np.float32) * layout.temperature)
    found = layout.top_k_logits(kept, torch.from_numpy(ids), torch.from_numpy(rest.astype(np.float32)), vocab_size)
    return {**found, columns.TEMPERATURE: np.float32(layout.temperature)}


def _distinct(ids: list[int], logprobs: list[float], number: int) -> list[int]:
    """The ids of a position, with others in place of those that a set fills unused places with."""
    if len({*ids}) == len(ids):
        return ids
    used = [token for token, logprob in zip(ids, logprobs, strict=True) if logprob > -math.inf]
    if len({*used}) < len(used):
        raise ValueError(f"Row {number} has a token twice at one position: its distribution is not known.")
    free = (token for token in range(2 * len(ids)) if token not in used)
    return [token if logprob > -math.inf else next(free) for token, logprob in zip(ids, logprobs, strict=True)]


def _check_alignment(dataset: datasets.Dataset, rows: list[_Targets]) -> None:
    """Raise a ValueError if the tokens of the rows are far more often those that the positions before are about."""
    hits, seen = {0: 0, 1: 0}, {0: 0, 1: 0}
    for ids, targets in zip(dataset.with_format(None)["input_ids"], rows, strict=True):
        for shift in hits:
            for place in np.flatnonzero(targets.known[: len(ids) - shift]):
                hits[shift] += ids[place + shift] in targets.ids[place]
                seen[shift] += 1
    if min(seen.values()) < FEWEST:
        return
    own, other = (hits[shift] / seen[shift] for shift in (1, 0))
    if other > own + MARGIN:
        raise ValueError(
            f"The next token is among the top k at {own:.0%} of the positions, and the token itself at {other:.0%}: "
            "the distributions are about the token at their own position. For axolotl choose alignment='legacy'."
        )


def _features(vocab_size: int, width: int) -> datasets.Features:
    item = datasets.Value("float32")
    return datasets.Features(
        {
            columns.TOP_K_LOGITS: datasets.List(datasets.List(item, length=width)),
            columns.TOP_K_IDS: datasets.List(datasets.List(datasets.Value(id_type(vocab_size).name), length=width)),
            columns.TAIL: datasets.List(item),
            columns.TEMPERATURE: item,
        }
    )


def _check_names(dataset: datasets.Dataset, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"The set lacks {', '.join(missing)}: expected {', '.join(names)}, got {dataset.column_names}."
        )
    there = [name for name in dataset.column_names if columns.is_output(name)]
    if there:
        raise ValueError(f"The data set has a column {', '.join(there)} already: remove or rename it.")
    if len(dataset) == 0:
        raise ValueError("The data set has no rows.")


def _read(dataset: datasets.Dataset) -> datasets.Dataset:
    return dataset.with_format(None)


def _dtype(name: str) -> np.dtype:
    if name not in DTYPES:
        raise ValueError(f"DistillKit's config: {name} is not read here, only {', '.join(DTYPES)}.")
    return np.dtype(DTYPES[name])


def _bytes(rows: list[list[int]], width: int, number: int, name: str) -> np.ndarray:
    found = {len(row) for row in rows} - {width}
    if found:
        raise ValueError(
            f"Row {number} has {sorted(found)[0]} bytes a position in {name}, and its config says {width}: it is of "
            "another set."
        )
    return np.array(rows, dtype=np.uint8).reshape(len(rows), width)


def _unpacked(packed: np.ndarray, bits: int, elements: int) -> np.ndarray:
    """(rows, elements) whole numbers of so many bits each, the highest bit first, from (rows, bytes)."""
    single = np.unpackbits(np.ascontiguousarray(packed), axis=1)[:, : bits * elements]
    powers = 1 << np.arange(bits - 1, -1, -1, dtype=np.int64)
    return single.reshape(len(packed), elements, bits).astype(np.int64) @ powers
