"""Run an exported student without torch, transformers or code of its folder: `python runtime.py FOLDER "a text"`."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort
    from tokenizers import Encoding, Tokenizer
except ImportError as error:
    raise ImportError(f"{error}. A student's runtime needs: pip install onnxruntime tokenizers numpy") from error

FAILURES = (ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.InvalidProtobuf, ort.RuntimeException)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
UNLIMITED = 2**62  # transformers writes 10**30 where a tokenizer has no limit, which is no integer to tokenizers
# Tokenizers of transformers that number the texts of a pair; their configs do not say so.
SEGMENTED = re.compile(r"((|Conv|Mobile|Squeeze)Bert|Deberta(V2)?|DPR.+Encoder|FNet)Tokenizer(Fast)?")
ALONE = ("convbert", "xlnet")  # their logits depend on padding
TAG = re.compile(r"O|[BIESLUMW](-.+)?")
LETTERS = {"L": "E", "U": "S", "M": "I", "W": "S"}  # of BILOU and BMES → of IOBES
WANTED = {False: "texts, or pairs as (text, text_pair) or dicts of both names", True: "texts or lists of words"}


class Student:
    """A classifier or tagger that `export_onnx` wrote; it is called like a pipeline of transformers.

    Texts are cut at the `model_max_length` of the tokenizer. If the config has a `cascade_threshold`, an answer is
    `deferred` to the teacher where its score is lower (at `cascade_temperature`; with several labels the lowest).

    Args:
        folder: with `config.json`, `tokenizer.json`, `tokenizer_config.json` and `onnx/`.
        int8: whether to run the quantised file. Its answers depend, slightly, on the other texts of a batch.
        threads: number of onnxruntime's threads. None: its default.
    Raises:
        ValueError: a file is missing or does not fit, or the student has another task.
    """

    def __init__(self, folder: str | Path, int8: bool = False, threads: int | None = None) -> None:
        folder = Path(folder)
        file = folder / "onnx" / ("model_quantized.onnx" if int8 else "model.onnx")
        _require(folder.is_dir(), f"There is no folder {folder}. Download one with huggingface_hub.snapshot_download.")
        translates = (folder / "onnx" / "encoder_model.onnx").is_file()
        _require(not translates, f"{folder} is a translator. Run it with hf_distill.export.GreedyTranslator.")
        remedy = "Write it with hf_distill.export_onnx, or download onnx/ too; a run's student is in student/"
        _require(file.is_file(), f"Expected {file}, which does not exist. {remedy}.")
        remedy = "Save student and tokenizer there with save_pretrained; tokenizer.json needs a fast tokenizer"
        for name in ("config.json", "tokenizer.json"):
            _require((folder / name).is_file(), f"{folder} has no {name}. {remedy}.")
        self.config = _read(folder / "config.json")
        self._load_tokenizer(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads or 0, 4  # errors are raised, not logged
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except FAILURES as error:
            raise ValueError(f"onnxruntime cannot load {file}. Export or download it again. {error}") from error
        self.inputs = [each.name for each in self.session.get_inputs()]
        shape, config = self.session.get_outputs()[0].shape, self.config
        known = {*self.inputs} <= {*INPUTS} and len(shape) in (2, 3)
        _require(known, f"{file} has the inputs {self.inputs} and logits {shape}. Use the runtime.py beside it.")
        self.tags, number = len(shape) == 3, shape[-1]
        names = config.get("id2label") or {each: f"LABEL_{each}" for each in range(number)}
        _require(len(names) == number, f"config.json names {len(names)} classes, {file} has {number}. Export it again.")
        self.labels = [names[each] for each in sorted(names, key=int)]
        self.letters = _entity_letters(self.labels) if self.tags else set()
        several = number == 1 and not self.tags  # as a pipeline takes it where the config does not tell
        self.problem = config.get("problem_type") or ("multi" if several else "single") + "_label_classification"
        self.threshold = limit = config.get("cascade_threshold")
        fits = limit is None or (isinstance(limit, int | float) and 0 <= limit <= 1 and self.problem != "regression")
        _require(fits, f"cascade_threshold: expected 0 to 1 for classes, got {limit!r} for {self.problem}. Remove it.")
        self.temperature = heat = config.get("cascade_temperature", 1)
        fits = isinstance(heat, int | float) and 0.01 <= heat <= 100
        _require(fits, f"cascade_temperature: expected 0.01 to 100, got {heat!r}. Fit the cascade again.")

    def _load_tokenizer(self, folder: Path) -> None:
        """With the settings of transformers, which ignores where tokenizer.json says to cut and to pad."""
        settings = _read(file) if (file := folder / "tokenizer_config.json").is_file() else {}
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        side = settings.get("truncation_side") or (self.tokenizer.truncation or {}).get("direction", "right")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(min(settings.get("model_max_length") or UNLIMITED, UNLIMITED), direction=side)
        self.tokenizer.encode_special_tokens = bool(settings.get("split_special_tokens"))
        self.unknown = unknown["content"] if isinstance(unknown := settings.get("unk_token"), dict) else unknown
        named = "token_type_ids" in settings.get("model_input_names", ())
        self.segmented = named or bool(SEGMENTED.fullmatch(settings.get("tokenizer_class") or ""))

    def __call__(self, texts: Any, *, top_k: int | None = 1, words: bool = False, batch_size: int = 32) -> list[Any]:
        """One answer for each text, always in a list.

        A classifier answers `{"label", "score"}`, or a list of them with another `top_k`. A tagger answers a list: the
        entities, if its classes are IOB, IOBES or BILOU tags, else the words, as `{"label", "score", "word", "start",
        "end"}`. Words are tagged at their first tokens; an entity's score is their mean. Given words count as joined.

        Args:
            texts: one or several; a pair is `(text, text_pair)` or a dict of both. Taggers also take lists of words.
            top_k: number of classes of an answer, the best first. None: all.
            words: whether a tagger answers words, not entities. Given words beyond the limit are labelled None.
            batch_size: number of texts that are run together.
        Raises:
            TypeError, ValueError: no texts were given, or one that is longer than the model can read.
        """
        fits = (top_k == 1 if self.tags else not words) and batch_size >= 1 and (top_k is None or top_k >= 1)
        _require(fits, f"Got {top_k=} and {batch_size=} (at least 1), {words=} (taggers alone, without top_k).")
        items, answers = self._items(texts), dict[int, Any]()
        order = sorted(range(len(items)), key=lambda row: len(str(items[row])))
        size = 1 if self.config.get("model_type") in ALONE else batch_size
        for batch in (order[first : first + size] for first in range(0, len(order), size)):
            given = [items[row] for row in batch]
            encodings = [self._encoded(item) for item in given] if self.tags else self.tokenizer.encode_batch(given)
            read = zip(given, encodings, self._scores(encodings), strict=True)
            tagged = (self._tagged(*each, words) if self.tags else self._classified(each[-1], top_k) for each in read)
            answers |= zip(batch, tagged, strict=True)
        return [answers[row] for row in range(len(items))]

    def _items(self, texts: Any) -> list[Any]:
        """Texts, pairs as tuples, sentences as lists of words."""
        one = isinstance(texts, str | bytes | tuple | set | Mapping) or not isinstance(texts, Iterable)
        found: list[Any] = []
        for number, item in enumerate([texts] if one else texts):
            named = isinstance(item, Mapping) and {*item} <= {"text", "text_pair"} and not self.tags
            parts = [item.get("text"), item.get("text_pair") or ""] if named else item
            several = isinstance(parts, list | tuple) and (self.tags or len(parts) == 2)
            if not all(isinstance(part, str) for part in (parts if several else [parts])):
                raise TypeError(f"Expected {WANTED[self.tags]}; text {number} is {type(item).__name__}: {item!r:.80}")
            # A pipeline, too, leaves out a second text that is empty.
            found.append(parts if not several else list(parts) if self.tags else tuple(parts) if parts[1] else parts[0])
        _require(found, f"There is no text in {texts!r}. Expected {WANTED[self.tags]}.")
        return found

    def _encoded(self, item: Any) -> Encoding:
        """A sentence; a given word of no token is read as the unknown one, as in training."""
        split = isinstance(item, list)
        _require(split or self.tokenizer.pre_tokenizer, "The tokenizer cannot split texts into words: give the words.")
        encoding = self.tokenizer.encode(item, is_pretokenized=split)
        lost = {*range(len(item) * split)}.difference(*(part.word_ids for part in (encoding, *encoding.overflowing)))
        if not lost or self.unknown is None:  # without one, such words get no label
            return encoding
        shown = [self.unknown if number in lost else word for number, word in enumerate(item)]
        return self.tokenizer.encode(shown, is_pretokenized=True)

    def _scores(self, encodings: Sequence[Encoding]) -> np.ndarray:
        """(batch, classes) or (batch, length, classes); padding is on the right, whatever the tokenizer's side is."""
        length, pad = max(1, *map(len, encodings)), self.config.get("pad_token_id") or 0
        given = {name: np.full((len(encodings), length), pad if name == "input_ids" else 0) for name in self.inputs}
        for row, encoding in enumerate(encodings):
            values = (encoding.ids, encoding.attention_mask, encoding.type_ids if self.segmented else 0)
            for name in self.inputs:
                given[name][row, : len(encoding)] = values[INPUTS.index(name)]
        try:
            logits = self.session.run(["logits"], given)[0]
        except FAILURES as error:
            remedy = "Set model_max_length in tokenizer_config.json to what it reads, or use its own tokenizer"
            raise ValueError(f"{length} tokens cannot be read. {remedy}. {' '.join(str(error).split())}") from error
        _require(np.isfinite(logits).all(), "The logits are not finite: no answer means anything. Export it again.")
        if self.problem.startswith("multi"):
            return np.exp(-np.logaddexp(0, -logits))
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return logits if self.problem == "regression" else powers / powers.sum(axis=-1, keepdims=True)

    def _answer(self, label: Any, score: Any, confidence: Any, **further: Any) -> dict[str, Any]:
        deferred = {} if self.threshold is None else {"deferred": bool(score is None or confidence < self.threshold)}
        return {"label": label, "score": None if score is None else float(score), **further, **deferred}

    def _classified(self, scores: np.ndarray, top_k: int | None) -> Any:
        sides = np.stack([scores, 1 - scores]) if self.problem.startswith("multi") else scores[:, None]
        powers = sides.astype(float) ** (1 / self.temperature)
        sure = (powers.max(axis=0) / (1 if self.temperature == 1 else powers.sum(axis=0))).min()
        answers = [self._answer(self.labels[at], scores[at], sure) for at in np.argsort(-scores, kind="stable")[:top_k]]
        return answers[0] if top_k == 1 else answers

    def _tagged(self, item: Any, encoding: Any, scores: np.ndarray, words: bool) -> list[Any]:
        if isinstance(item, list):
            text, numbers = " ".join(item), [*range(len(item))]
            starts = [0, *accumulate(len(word) + 1 for word in item)]
            places = [(start, start + len(word)) for start, word in zip(starts, item, strict=False)]
        else:  # some tokenizers count the space before a word in
            text, numbers = item, sorted({*encoding.word_ids} - {None})
            found = [encoding.word_to_chars(number) for number in numbers]
            places = [(end - len(text[start:end].lstrip()), end) for start, end in found]
        rows: list[Any] = [scores[at[0]] if (at := encoding.word_to_tokens(number)) else None for number in numbers]
        labels = [None if row is None else self.labels[row.argmax()] for row in rows]
        spans = [(label, place, place) for place, label in enumerate(labels)]
        if self.letters and not words:
            spans = entities([label or "O" for label in labels], complete=not self.letters <= {"B", "I"})
        answers = []
        for label, first, last in spans:
            start, end = places[first][0], places[last][1]
            score = None if label is None else np.mean([row.max() for row in rows[first : last + 1]])
            answers.append(self._answer(label, score, score, word=text[start:end], start=start, end=end))
        return answers


def entities(tags: Sequence[str], complete: bool) -> list[Any]:
    """Type, first and last word of the entities of a sentence; of IOBES and BILOU of those that are `complete`."""
    found, opened = list[Any](), None
    for place, tag in enumerate([*tags, "O"]):
        letter, kind = LETTERS.get(tag[0], tag[0]), tag[2:] or "_"
        if opened and (letter not in "IE" or kind != opened[0]):
            found += [] if complete else [(*opened, place - 1)]
            opened = None
        if letter in "BS" or (letter == "I" and not opened and not complete):
            opened = kind, place
        if complete and letter in "ES" and opened:
            found, opened = [*found, (*opened, place)], None
    return found


def _entity_letters(names: Sequence[str]) -> set[str]:
    """The first letters of entities' tags, without O; none for other tags. See `hf_distill.tag_schemes`."""
    letters = {name[:1] for name in names if name} - {"O"}
    marks = any("-" in name for name in names) or {"B", "O"} & {*names}
    return letters if marks and all(TAG.fullmatch(name) for name in names if name) else set()


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: expected a JSON object: {error}. Save it again.") from error


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise ValueError(message)


def main() -> None:
    """Answer the texts of the command line, each in one line of JSON."""
    parser = argparse.ArgumentParser(description="Run an exported student without torch.")
    parser.add_argument("folder")
    parser.add_argument("texts", nargs="+", metavar="text")
    parser.add_argument("--pair", help="the second text of each")
    parser.add_argument("--int8", action="store_true", help="run the quantised file")
    given = parser.parse_args()
    try:
        found = Student(given.folder, given.int8)([(text, given.pair) if given.pair else text for text in given.texts])
    except (ValueError, TypeError) as error:
        sys.exit(f"{parser.prog}: {error}")
    sys.stdout.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in found)


if __name__ == "__main__":
    main()
