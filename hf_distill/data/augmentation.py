"""New texts from old ones, for a teacher to label: words masked, words replaced, a few neighbouring words alone."""

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from hf_distill.columns import PREFIX
from hf_distill.data.config import Augment
from hf_distill.data.word_replacement import MaskedLanguageModel, Neighbors, Proposals, Text

LONGEST_NGRAM = 5  # words, as in Tang et al.
BLOCK = 64  # drafts that a masked language model reads at once: always the same ones, so that rounding is too
TRIES = 20  # for each text that is asked for


def augmented(
    texts: Sequence[str],
    settings: Augment,
    seed: int = 0,
    *,
    epoch: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    masked_language_model: MaskedLanguageModel | None = None,
    counts: dict[str, int] | None = None,
    sources: list[int] | None = None,
) -> list[str]:
    """New texts, made from old ones.

    The same arguments give the same texts. Asking for more gives the same ones first.

    Args:
        texts: the old ones, which are the corpus too.
        settings: see `Augment`.
        seed: >= 0.
        epoch: >= 0; another one gives other texts.
        tokenizer: whose mask token (its unknown token, where it has no mask) stands for masked words: the teacher's. A
            student's, where `student_tokenizer` made it, knows the same one. Not needed with `mask=0`.
        masked_language_model: in place of the one that the settings name, where it is loaded already.
        counts: receives how much was made and left out, each with its reason.
        sources: receives, for each new text, the number of the old one that it was made from.
    Returns:
        (settings.texts,) None is empty, or nothing but masks.
    Raises:
        TypeError: a text is not a string; pairs of texts are not augmented.
        ValueError: no text has a word; masking without a tokenizer that has a token for it; fewer distinct new texts
            than asked for can be made.

    >>> augmented(["a good film", "a bad film", "not a good plot"], Augment(3, mask=0, replace=0.5, ngram=0))
    ['not a good film', 'a good plot', 'a bad plot']
    """
    source = _Source(texts, settings, seed, [] if tokenizer is None else [tokenizer], masked_language_model)
    made = source.draw(epoch, counts if counts is not None else {})
    found = list(tqdm(made, total=settings.texts, desc="Augment", unit=" texts", delay=5))
    if sources is not None:
        sources.extend(number for number, _ in found)
    return [text for _, text in found]


class FreshTexts(IterableDataset):
    """Rows of new texts, others in each epoch, for a live teacher: a `train_dataset` of `DistillationTrainer`.

    `Trainer` calls `set_epoch`. A training that is resumed reads the texts that it would have read. The rows have no
    labels, so `hard_label_weight` should be 0. `cache_teacher_outputs` reads them as well: this epoch's as they are, or
    those of several with `stream`.

    Args:
        texts: the old ones.
        settings: see `Augment`; `texts` is the number of rows an epoch.
        tokenizer: the student's.
        teacher_tokenizer: makes `teacher_input_ids` and its companions; None: the teacher reads `input_ids`.
        max_length: tokens, longer texts are cut; None: the tokenizer's own limit.
        teacher_max_length: likewise.
        seed: >= 0.
        masked_language_model: in place of the one that the settings name, where it is loaded already.
    Raises:
        TypeError: see `augmented`.
        ValueError: see `augmented`; the number of texts is only known to be enough once they are drawn.
    """

    def __init__(
        self,
        texts: Sequence[str],
        settings: Augment,
        tokenizer: PreTrainedTokenizerBase,
        *,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int | None = None,
        teacher_max_length: int | None = None,
        seed: int = 0,
        masked_language_model: MaskedLanguageModel | None = None,
    ) -> None:
        readers = [("", tokenizer, max_length)]
        if teacher_tokenizer is not None:
            readers.insert(0, (PREFIX, teacher_tokenizer, teacher_max_length))
        self._readers = readers
        self._source = _Source(texts, settings, seed, [reader for _, reader, _ in readers], masked_language_model)
        # Shared, so that the workers of a loader that keeps them alive over the epochs see another number too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.column_names = list(self._encode(texts[0]))

    def set_epoch(self, epoch: int) -> None:
        """Other texts from the next iteration on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._source.settings.texts

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for _, text in itertools.islice(self._source.draw(int(self._epoch), {}), first, None, step):
            yield self._encode(text)

    def stream(self, epochs: Iterable[int] | None = None) -> datasets.IterableDataset:
        """The rows of some epochs, one epoch after the other.

        Args:
            epochs: their numbers, >= 0. None: the one that is set.
        """
        numbers = [int(self._epoch)] if epochs is None else list(epochs)
        return datasets.IterableDataset.from_generator(self._of_epochs, gen_kwargs={"epochs": numbers})

    def _of_epochs(self, epochs: list[int]) -> Iterator[dict[str, Any]]:
        for epoch in epochs:
            for _, text in self._source.draw(epoch, {}):
                yield self._encode(text)

    def _encode(self, text: str) -> dict[str, Any]:
        return {
            prefix + name: value
            for prefix, tokenizer, length in self._readers
            for name, value in tokenizer(text, truncation=True, max_length=length).items()
        }


class _Draft:
    """A new text before its words are found: which ones go, and which ones stay.

    Args:
        old: with one word at least.
        source: the number of the old text.
        settings: see `Augment`.
        generator: this draft's own.
    """

    def __init__(self, old: Text, source: int, settings: Augment, generator: np.random.Generator) -> None:
        self.old, self.source = old, source
        self.generator = generator
        number = len(old.words)
        draws = generator.random(number).tolist()
        self.span: tuple[int, int] | None = None  # words kept, where not all are
        if generator.random() < settings.ngram:
            length = min(int(generator.integers(1, LONGEST_NGRAM + 1)), number)
            start = int(generator.integers(0, number - length + 1))
            self.span = (start, start + length)
        kept = range(*(self.span or (0, number)))
        self.masked = [place for place in kept if draws[place] < settings.mask]
        limits = settings.mask, settings.mask + settings.replace
        self.replaced = [place for place in kept if limits[0] <= draws[place] < limits[1]]
        self.only_masks = len(self.masked) == len(kept)

    def chosen(self, proposals: list[Proposals]) -> dict[int, str]:
        """A word for each place that has one."""
        changes = {}
        for place, (words, weights) in zip(self.replaced, proposals, strict=True):
            number = self.generator.random()
            if words:
                total = list(itertools.accumulate(weights))
                changes[place] = words[bisect.bisect(total, number * total[-1], hi=len(total) - 1)]
        return changes

    def spelled(self, changes: dict[int, str]) -> str:
        """The new text."""
        pieces = self.old.pieces(changes)
        if self.span is not None:
            pieces = pieces[2 * self.span[0] + 1 : 2 * self.span[1]]
        return "".join(pieces).strip()


class _Source:
    """Where new texts come from: old ones with what is known of their words.

    Args:
        texts: the old ones.
        settings: see `Augment`.
        seed: >= 0.
        tokenizers: that will read the new texts, the one with the mask token first.
        masked_language_model: see `augmented`.
    """

    def __init__(
        self,
        texts: Sequence[str],
        settings: Augment,
        seed: int,
        tokenizers: Sequence[PreTrainedTokenizerBase],
        masked_language_model: MaskedLanguageModel | None,
    ) -> None:
        if isinstance(texts, str):
            raise TypeError("Expected texts as a sequence of strings, got one string: its letters would be the texts.")
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(
                    f"Expected each text as one string, got {type(text).__name__}: {text!r}. Pairs of texts are not "
                    "augmented; leave augment out."
                )
        self.settings, self.seed = settings, seed
        self.mask = _mask_token(tokenizers) if settings.mask > 0 else ""
        self.keys = {_key(text) for text in texts}
        split = [Text(text) for text in texts]
        self.numbers = [number for number, text in enumerate(split) if text.words]
        self.old = [split[number] for number in self.numbers]
        self.wordless = len(split) - len(self.old)
        if not self.old:
            raise ValueError(f"Expected texts to make new ones from, got {len(split)} without a word in them.")
        self.model: MaskedLanguageModel | Neighbors | None = None
        if settings.replace > 0:
            self.model = masked_language_model
            if self.model is None and settings.masked_language_model is not None:
                self.model = MaskedLanguageModel.load(settings.masked_language_model)
            elif self.model is None:
                self.model = Neighbors(self.old)

    def draw(self, epoch: int, counts: dict[str, int]) -> Iterator[tuple[int, str]]:
        """The new texts of an epoch, each after the number of its old one, with `counts` filled on the way."""
        wanted = self.settings.texts
        seen = set(self.keys) if self.settings.distinct else set()
        counts |= dict.fromkeys(
            (
                "augmented texts",
                "old texts without a word, passed over",
                "augmented texts that were there already, left out",
                "augmented texts of nothing but masks, left out",
                "words masked",
                "words replaced",
                "words without another to replace them, kept",
            ),
            0,
        )
        counts["old texts without a word, passed over"] = self.wordless
        for draft, changes in itertools.islice(self._drafts(epoch), TRIES * wanted):
            text = draft.spelled(changes | dict.fromkeys(draft.masked, self.mask))
            if draft.only_masks:
                counts["augmented texts of nothing but masks, left out"] += 1
            elif _key(text) in seen:
                counts["augmented texts that were there already, left out"] += 1
            else:
                if self.settings.distinct:
                    seen.add(_key(text))
                counts["augmented texts"] += 1
                counts["words masked"] += len(draft.masked)
                counts["words replaced"] += len(changes)
                counts["words without another to replace them, kept"] += len(draft.replaced) - len(changes)
                yield draft.source, text
                if counts["augmented texts"] == wanted:
                    return
        raise ValueError(
            f"augment.texts: asked for {wanted} new texts, found {counts['augmented texts']} among {TRIES * wanted} "
            f"drawn from {len(self.old)} old ones. Ask for fewer, raise the probabilities, or set distinct=False."
        )

    def _drafts(self, epoch: int) -> Iterator[tuple[_Draft, dict[int, str]]]:
        """Drafts without end, each with its replaced words.

        A draft has a generator of its own, so it does not depend on how many others are drawn, and when.
        """
        places = self._places(epoch)
        while True:
            drafts = []
            for turn, index in itertools.islice(places, BLOCK):
                # 0 in the last place is the order's own.
                generator = np.random.default_rng((self.seed, epoch, turn, index + 1))
                drafts.append(_Draft(self.old[index], self.numbers[index], self.settings, generator))
            proposals: list[list[Proposals]] = [[] for _ in drafts]
            if self.model is not None:
                proposals = self.model.propose([draft.old for draft in drafts], [draft.replaced for draft in drafts])
            for draft, words in zip(drafts, proposals, strict=True):
                yield draft, draft.chosen(words)

    def _places(self, epoch: int) -> Iterator[tuple[int, int]]:
        for turn in itertools.count():
            for index in np.random.default_rng((self.seed, epoch, turn, 0)).permutation(len(self.old)).tolist():
                yield turn, index


def _key(text: str) -> str:
    return " ".join(text.lower().split())


def _mask_token(tokenizers: Sequence[PreTrainedTokenizerBase]) -> str:
    """The token that stands for a masked word, which all the tokenizers have to know."""
    if not tokenizers:
        raise ValueError("augment.mask is above 0 and needs a mask token: pass tokenizer=..., or set mask=0.")
    first = tokenizers[0]
    token = first.mask_token or first.unk_token
    if token is None or token in (first.bos_token, first.eos_token, first.pad_token):
        raise ValueError(
            f"augment.mask is above 0, and {type(first).__name__} has no token for a word that is not there (its mask "
            f"token is {first.mask_token!r}, its unknown token {first.unk_token!r}). Set mask=0."
        )
    for tokenizer in tokenizers:
        read = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(read) != 1:
            raise ValueError(
                f"augment.mask is above 0, and {type(tokenizer).__name__} reads the mask token {token!r} letter by "
                f"letter, as {len(read)} tokens. Set mask=0, or use tokenizers of one kind."
            )
    return token
