"""What a user waits for: from a text to its label, tokenization and decision included."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_distill.evaluation import speed
from hf_distill.evaluation.predictions import decide
from hf_distill.evaluation.predictor import Predictor
from hf_distill.evaluation.speed import BATCH, BATCHES, BLOCK, CALLS, ROUNDS, ratio_of_medians
from hf_distill.evaluation.stopwatch import Limits, in_turns, per_second

RUNTIME = "runtime"


@dataclass(frozen=True)
class FromText:
    """A model that labels texts as a user would have it.

    Attributes:
        predictor: of the model, within its `ready`.
        tokenizer: the model's.
        limit: tokens at which a text is cut.
        problem: see `models.problem_type`.
    """

    predictor: Predictor
    tokenizer: Any
    limit: int
    problem: str

    def read(self, texts: Sequence[Any], **options: Any) -> Any:
        """What the tokenizer makes of some texts.

        Args:
            texts: each a text, the two of a pair, or the words of a sentence.
            options: of the tokenizer.
        """
        options = {"truncation": True, "max_length": self.limit, "verbose": False, **options}
        if self.predictor.starts is not None:
            return self.tokenizer([list(words) for words in texts], is_split_into_words=True, **options)
        if isinstance(texts[0], str):
            return self.tokenizer(list(texts), **options)
        return self.tokenizer(*(list(side) for side in zip(*texts, strict=True)), **options)

    def label(self, texts: Sequence[Any]) -> list[Any]:
        """The class of each text, of a sentence those of its words that were read; quantities where the labels are.

        Args:
            texts: see `read`.
        """
        encoded = self.read(texts, padding=len(texts) > 1, return_tensors="pt")
        wanted = {*self.predictor.columns, *(["attention_mask"] if self.predictor.masks else [])}
        inputs = {name: encoded[name].to(self.predictor.device) for name in encoded if name in wanted}
        decisions = decide(self.predictor(inputs).float().cpu().numpy(), self.problem)
        if self.predictor.starts is None:
            return decisions.tolist()
        return [row[first_pieces(encoded.word_ids(number))].tolist() for number, row in enumerate(decisions)]


@dataclass(frozen=True)
class FromRuntime(FromText):
    """An exported student as `hf_distill.runtime` labels texts, without torch and transformers.

    Attributes:
        student: a `runtime.Student`.
    """

    student: Any

    def label(self, texts: Sequence[Any]) -> list[Any]:
        """The answers of the runtime.

        Args:
            texts: see `read`.
        """
        if self.predictor.starts is not None:
            return self.student([list(words) for words in texts], words=True, batch_size=len(texts))
        return self.student(list(texts), batch_size=len(texts))


def in_runtime(files: Mapping[str, FromText], folder: Path) -> dict[str, FromText]:
    """The exported files of a student's folder as the runtime reads them, by `<name> runtime`.

    Args:
        files: the readers of the files in onnxruntime, by name.
        folder: of the student. Without config and fast tokenizer in it, the runtime cannot read it, and there is none.
    """
    if not files or not all((folder / name).is_file() for name in ("config.json", "tokenizer.json")):
        return {}
    from hf_distill.runtime import Student

    return {
        f"{name} {RUNTIME}": FromRuntime(
            **vars(reader), student=Student(folder, int8=name.endswith("int8"), threads=torch.get_num_threads())
        )
        for name, reader in files.items()
    }


def first_pieces(word_ids: Sequence[int | None]) -> list[int]:
    """The positions at which words start.

    Args:
        word_ids: of each position, as fast tokenizers give them.

    >>> first_pieces([None, 0, 0, 1, None])
    [1, 3]
    """
    return [
        place
        for place, (word, before) in enumerate(zip(word_ids, [None, *word_ids[:-1]], strict=True))
        if word is not None and word != before
    ]


@dataclass(frozen=True)
class EndToEnd:
    """The times of one model from text to label.

    Attributes:
        latencies_ms: (calls,) one text a call, call i on the same text for all models of a run.
        batches_ms: (calls,) 32 texts a call, likewise.
    """

    latencies_ms: np.ndarray
    batches_ms: np.ndarray

    def summary(self) -> dict[str, Any]:
        """`end_to_end_ms` and `end_to_end_throughput`, see `Report.models`."""
        p50, p95 = np.percentile(self.latencies_ms, [50, 95])
        return {
            "end_to_end_ms": {"batch_1": {"p50": p50, "p95": p95}},
            "end_to_end_throughput": {f"batch_{BATCH}": per_second(BATCH, self.batches_ms)},
        }


def end_to_end_ratios(slow: EndToEnd, fast: EndToEnd, seed: int) -> dict[str, dict[str, Any]]:
    """How many times as fast one of two models is from text to label, see `speed.faster`.

    Args:
        slow: of the model that is compared with.
        fast: of the other, from the same run.
        seed: of the draws of calls.
    """
    return {
        "faster_end_to_end": ratio_of_medians(slow.latencies_ms, fast.latencies_ms, seed),
        "throughput_end_to_end": ratio_of_medians(slow.batches_ms, fast.batches_ms, seed),
    }


def check_texts(readers: Mapping[str, FromText], texts: Sequence[Any], dataset: Dataset) -> None:
    """Raise where the texts are not those of the data set: other texts would take another time.

    Args:
        readers: by name.
        texts: one for each row.
        dataset: tokenised.
    Raises:
        ValueError: another number of texts, or one that is read as other tokens than its row has.
    """
    if len(texts) != len(dataset):
        raise ValueError(
            f"raw_texts: got {len(texts)} texts for the {len(dataset)} rows of the test set. Give the text, the pair "
            "or the words that each row was made of, in the rows' order."
        )
    rows = np.arange(len(dataset))[: BATCH * BATCHES]
    first = dataset.select(rows)
    for name, reader in readers.items():
        predictor, given = reader.predictor, [texts[row] for row in rows]
        if predictor.starts is not None:  # a word of no token is read as the unknown one, so tokens do not compare
            known = np.array([len(starts) for starts in predictor.word_positions(first)])
            found, unit = np.array([len(words) for words in given]), "words"
            other = found < known
        else:
            known = predictor.lengths(first)
            found, unit = np.array([len(ids) for ids in reader.read(given)["input_ids"]]), "tokens"
            other = found != known
        for row in np.flatnonzero(other)[:1]:
            raise ValueError(
                f"raw_texts: text {row} has {found[row]} {unit} for the {name}, and row {row} of the test set has "
                f"{known[row]}. Give the texts and the tokenizers that the rows were made with, or leave raw_texts "
                "out: then no time with tokenization is measured."
            )


def measure_end_to_end(
    readers: Mapping[str, FromText], texts: Sequence[Any], dataset: Dataset, *, seed: int = 0
) -> dict[str, EndToEnd]:
    """Time several models in turns from texts to labels, on the texts that `measure_speed` takes.

    Args:
        readers: by name.
        texts: one for each row of the data set.
        dataset: tokenised, by which empty texts are left out.
        seed: of the choice of texts.
    """
    predictors = {name: reader.predictor for name, reader in readers.items()}
    rows = speed.with_tokens(predictors, dataset, seed)[: BATCH * BATCHES]
    groups = speed.batches_of(rows, BATCHES, BATCH)
    limits = Limits(BLOCK, CALLS, speed.FEWEST_CALLS, speed.SECONDS, warm=True)
    alone = in_turns(_calls(readers, [[texts[row]] for row in rows]), limits)
    limits = Limits(len(groups), len(groups) * ROUNDS, len(groups), speed.SECONDS, warm=True)
    many = in_turns(_calls(readers, [[texts[row] for row in group] for group in groups]), limits)
    return {name: EndToEnd(alone[name].milliseconds, many[name].milliseconds) for name in readers}


def _calls(readers: Mapping[str, FromText], given: Sequence[list[Any]]) -> dict[str, Callable[[int], list[Any]]]:
    def call_of(reader: FromText) -> Callable[[int], list[Any]]:
        return lambda number: reader.label(given[number % len(given)])

    return {name: call_of(reader) for name, reader in readers.items()}
