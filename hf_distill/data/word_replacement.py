"""Words that may stand in a place of a text: what the neighbours in a corpus say, or a masked language model."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.paths import naming
from hf_distill.remote_code import refused_with

# A link, a mention, a hashtag, or letters and digits with apostrophes inside. Whatever stands between is kept as it is.
WORD = re.compile(r"https?:\S+|[@#]?\w+(?:['’]\w+)*")
EDGE = ""  # the neighbour of a first or last word
PROPOSALS = 15  # words that a masked language model has to offer for a place, TinyBERT's K

Proposals = tuple[list[str], list[float]]  # words and their weights


class Text:
    """A text as words and what stands between them."""

    def __init__(self, text: str) -> None:
        self.words: list[str] = WORD.findall(text)
        self.gaps: list[str] = WORD.split(text)  # words + 1, the ones before the first and after the last included
        framed = [EDGE, *(word.lower() for word in self.words), EDGE]
        self.neighbors = list(zip(framed, framed[2:], strict=False))  # (left, right) of each word

    def pieces(self, changes: dict[int, str]) -> list[str]:
        """Gap, word, gap, ..., gap, with some words changed: (2 · words + 1,)."""
        words = [changes.get(place, word) for place, word in enumerate(self.words)]
        return [*itertools.chain.from_iterable(zip(self.gaps, words, strict=False)), self.gaps[-1]]


class Neighbors:
    """Proposes words for places in a text, as a bigram model of a corpus sees fit; see `Augment`.

    Args:
        corpus: its texts, split into words.
    """

    def __init__(self, corpus: Iterable[Text]) -> None:
        self.after: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.before: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.counts: Counter[str] = Counter()
        for text in corpus:
            for word, (left, right) in zip(text.words, text.neighbors, strict=True):
                self.after[left][word] += 1
                self.before[right][word] += 1
                self.counts[word] += 1

    def propose(self, texts: Sequence[Text], places: Sequence[Sequence[int]]) -> list[list[Proposals]]:
        """For each of some places in each text, the other words that may stand there, with their weights."""
        return [[self._fitting(text, place) for place in chosen] for text, chosen in zip(texts, places, strict=True)]

    def _fitting(self, text: Text, place: int) -> Proposals:
        left, right = text.neighbors[place]
        after, before = self.after[left], self.before[right]
        shorter = after if len(after) < len(before) else before
        own = text.words[place].lower()
        words = [word for word in shorter if word in after and word in before and word.lower() != own]
        return words, [after[word] * before[word] / self.counts[word] for word in words]


class MaskedLanguageModel:
    """Proposes words for places in a text, as a masked language model sees fit.

    Args:
        model: with a head that fills masks; it is put into evaluation mode.
        tokenizer: its own, a fast one.
    Raises:
        ValueError: the tokenizer has no mask token, is not fast, or knows too few whole words.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.mask_token is None or not tokenizer.is_fast:
            raise ValueError(
                f"Expected the fast tokenizer of a masked language model, got {type(tokenizer).__name__} with the mask "
                f"token {tokenizer.mask_token!r}. Choose a model of BERT's kind, or leave the model out."
            )
        self.model: Any = model.eval()
        self.tokenizer = tokenizer
        self.max_length = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
        self.words = _whole_words(tokenizer, model.config.vocab_size)
        if len(self.words) <= PROPOSALS:
            raise ValueError(
                f"{type(tokenizer).__name__} knows {len(self.words)} tokens that are whole words, and {PROPOSALS + 1} "
                "are needed to choose from. Choose another masked language model."
            )
        self._ids = torch.tensor(list(self.words))

    @classmethod
    def load(cls, path: str) -> "MaskedLanguageModel":
        """The model and tokenizer of a Hub id or folder.

        Raises:
            ValueError: it lacks the head, so that its words would be random ones.
        """
        remedy = "Choose one of an architecture that transformers has."
        with naming("data.augment.masked_language_model", path), refused_with(remedy, path):
            model, found = AutoModelForMaskedLM.from_pretrained(path, output_loading_info=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        if found["missing_keys"]:
            raise ValueError(
                f"{path} has no weights for {', '.join(sorted(found['missing_keys']))}, so it would fill masks at "
                "random. Choose a model that was saved with its masked language head."
            )
        return cls(model, tokenizer)

    @torch.no_grad()
    def propose(self, texts: Sequence[Text], places: Sequence[Sequence[int]]) -> list[list[Proposals]]:
        """For each of some places in each text, its likely other words; none beyond the length that the model reads.

        All places of a text are masked together.
        """
        found: list[list[Proposals]] = [[] for _ in texts]
        asked = [number for number, chosen in enumerate(places) if chosen]
        if not asked:
            return found
        pieces = [texts[number].pieces(dict.fromkeys(places[number], self.tokenizer.mask_token)) for number in asked]
        batch = self.tokenizer(
            ["".join(piece) for piece in pieces],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        logits = self.model(**batch.to(self.model.device)).logits
        for row, (number, piece) in enumerate(zip(asked, pieces, strict=True)):
            ends = list(itertools.accumulate(map(len, piece)))
            for place in places[number]:
                token = batch.char_to_token(row, ends[2 * place])  # a word begins where the gap before it ends
                word = texts[number].words[place]
                found[number].append(([], []) if token is None else self._likely(logits[row, token], word))
        return found

    def _likely(self, logits: torch.Tensor, word: str) -> Proposals:
        best = self._ids[logits[self._ids.to(logits.device)].topk(PROPOSALS + 1).indices.cpu()].tolist()
        words = [self.words[token] for token in best if self.words[token].lower() != word.lower()][:PROPOSALS]
        return words, [1.0] * len(words)


def _whole_words(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> dict[int, str]:
    """The tokens that are a whole word each: those that their own text, after a space, is read as."""
    ids = range(min(len(tokenizer), vocab_size))
    texts = [text.strip() for text in tokenizer.batch_decode([[token] for token in ids])]
    read = tokenizer([" " + text for text in texts], add_special_tokens=False)["input_ids"]
    return {
        token: text for token, text in zip(ids, texts, strict=True) if read[token] == [token] and WORD.fullmatch(text)
    }
