"""Train a smaller tokenizer of the same kind as the teacher's."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertTokenizer, PreTrainedTokenizerBase

from hf_distill.students.token_map import CONTINUING, is_byte_level, words_of

LAST_CHARACTER = 0x1FFFF
COVERAGE = 0.9995
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def student_tokenizer(
    teacher_tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], vocab_size: int
) -> PreTrainedTokenizerBase:
    """Train a smaller tokenizer of the teacher's kind: in a small student most weights are token embeddings.

    Special tokens (with new ids), normalisation, model_max_length, padding and truncation sides and the chat template
    are the teacher's. The same texts give the same vocabulary. Rare characters become the unknown token; byte-level
    tokenizers split them into bytes instead.

    Args:
        teacher_tokenizer: a fast tokenizer with a WordPiece, BPE or Unigram model; it is not changed.
        texts: the student's training texts, or similar ones; more than a few thousand are worth the time.
        vocab_size: maximum number of tokens, special tokens included. Few texts may give fewer.
    Raises:
        ValueError: the tokenizer is not fast or is of another kind, there is no text, or vocab_size is too small for
            the special tokens and the alphabet.
    """
    if not teacher_tokenizer.is_fast:
        raise ValueError(
            f"Expected a fast tokenizer (backed by the tokenizers library), got {type(teacher_tokenizer).__name__}, "
            "which cannot be trained on new texts. Load the teacher's fast tokenizer with AutoTokenizer, or do not "
            "train a smaller vocabulary: the student then uses the teacher's tokenizer."
        )
    if isinstance(texts, str):
        raise ValueError("Expected texts as an iterable of strings, got one string: its letters would be the texts.")
    texts = list(texts)
    if not any(text.strip() for text in texts):
        raise ValueError(
            f"Expected texts to learn a vocabulary from, got {len(texts)} texts that are all blank: every word would "
            "become the unknown token. Pass the texts of the training set."
        )
    description = json.loads(teacher_tokenizer.backend_tokenizer.to_str())
    kind = description["model"]["type"]
    if kind not in ("WordPiece", "BPE", "Unigram"):
        raise ValueError(
            f"Expected a WordPiece, BPE or Unigram tokenizer, got {kind} ({type(teacher_tokenizer).__name__}). "
            "Keep the teacher's vocabulary, or choose a teacher with one of these."
        )
    # Training on no text leaves the special tokens alone, including those that the tokenizer's class adds.
    student = teacher_tokenizer.train_new_from_iterator([[]], 1, show_progress=False)
    backend = teacher_tokenizer.backend_tokenizer
    if is_byte_level(backend):
        alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    else:
        texts = without_rare_characters(texts, max(100, vocab_size // 20))
        spelled = [words_of(backend, text) for text in texts]
        if kind == "WordPiece":
            spelled = [[mark_continuing(word) for word in words] for words in spelled]
        alphabet = {character for words in spelled for word in words for character in word}
    special_tokens = set(student.get_vocab()) - alphabet
    if vocab_size <= len(special_tokens) + len(alphabet):
        raise ValueError(
            f"Expected vocab_size above {len(special_tokens) + len(alphabet)} ({len(special_tokens)} special tokens "
            f"and an alphabet of {len(alphabet)}), got {vocab_size}: no word would have a token. Increase vocab_size."
        )
    if kind == "WordPiece":
        train_wordpiece(student.backend_tokenizer, spelled, vocab_size)
        return with_settings_of(student, teacher_tokenizer)
    if len(words_of(backend, "two words")) == 1:
        # This tokenizer (Llama 2) marks spaces without splitting at them: whole sentences would become tokens.
        texts = [word for text in texts for word in text.split()]
    student = teacher_tokenizer.train_new_from_iterator(batched(texts), vocab_size, show_progress=False)
    if kind == "Unigram":
        order_unigram(student.backend_tokenizer)
    return with_settings_of(student, teacher_tokenizer)


def empty_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer without words, for `student_tokenizer` to make one of its kind where the teacher has none to give.

    It is BERT's uncased WordPiece: accents and case are removed, Chinese characters stand alone.

    >>> student_tokenizer(empty_tokenizer(), ["a good day", "a bad day"], 40).tokenize("Good day")
    ['good', 'day']
    """
    special = {token: number for number, token in enumerate(SPECIAL_TOKENS)}
    return BertTokenizer(vocab=special, do_lower_case=True)


def with_settings_of(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with the current settings of another: training restores those that it was loaded with."""
    for name in ("model_max_length", "padding_side", "truncation_side", "chat_template"):
        setattr(tokenizer, name, getattr(other, name))
    return tokenizer


def without_rare_characters(texts: list[str], limit: int) -> list[str]:
    """The texts with rare characters replaced by spaces.

    Kept are the most frequent characters that cover 99.95 % of the texts, at most `limit` of them. Each emoji and
    mojibake character would take one or two rows of the student's small table, for a handful of occurrences. The share
    is SentencePiece's default `character_coverage`.
    """
    counts = Counter(character for text in texts for character in text if not character.isspace())
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    covered = itertools.accumulate(counts[character] for character in ordered)
    enough = sum(count < COVERAGE * counts.total() for count in covered) + 1
    rare = [character for character in ordered if ord(character) > LAST_CHARACTER] + ordered[min(enough, limit) :]
    spaces = {ord(character): " " for character in rare}
    return [text.translate(spaces) for text in texts]


def batched(texts: list[str], size: int = 1000) -> Iterable[list[str]]:
    """The texts in lists of `size`, which the tokenizers library processes faster than single texts."""
    return (texts[start : start + size] for start in range(0, len(texts), size))


def mark_continuing(word: str) -> str:
    """A word with all characters but the first moved to the private range, which marks them as continuing."""
    return word[:1] + "".join(chr(CONTINUING + ord(character)) for character in word[1:])


def train_wordpiece(backend: Tokenizer, marked: list[list[str]], vocab_size: int) -> None:
    """Train a WordPiece tokenizer by merging pairs, like the library's own trainer, but deterministically.

    tokenizers 0.23 numbers the continuing characters ("##a") in the order of a hash map, and breaks ties between
    merges by these numbers (https://github.com/huggingface/tokenizers/issues/1794). Its BPE trainer sorts its
    alphabet, so continuing characters are represented by separate characters here. Remove this once that issue is
    closed.

    Args:
        backend: with the special tokens and no other vocabulary; it is trained in place.
        marked: the words of each text, from `mark_continuing`.
        vocab_size: special tokens included.
    """
    model = json.loads(backend.to_str())["model"]
    vocabulary = dict(backend.get_vocab())
    trainee = Tokenizer(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(vocabulary), show_progress=False)
    trainee.train_from_iterator(batched([" ".join(words) for words in marked]), trainer=trainer)
    for piece, _ in sorted(trainee.get_vocab().items(), key=lambda item: item[1]):
        letters = "".join(chr(ord(letter) % CONTINUING) for letter in piece)
        token = letters if ord(piece[0]) < CONTINUING else model["continuing_subword_prefix"] + letters
        vocabulary.setdefault(token, len(vocabulary))
    backend.model = models.WordPiece(
        vocab=vocabulary,
        unk_token=model["unk_token"],
        continuing_subword_prefix=model["continuing_subword_prefix"],
        max_input_chars_per_word=model["max_input_chars_per_word"],
    )


def order_unigram(backend: Tokenizer) -> None:
    """Put a freshly trained Unigram vocabulary into a fixed order.

    tokenizers 0.23 finds the same pieces in every run, but sums their scores in the order of a hash map. Characters
    without a score of their own get the lowest score plus 0.0001, 0.0002, ..., in such an order too.
    """
    model = json.loads(backend.to_str())["model"]
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    fixed = [(piece, score) for piece, score in model["vocab"] if piece in added]
    learned = {piece: round(score, 9) for piece, score in model["vocab"] if piece not in added}
    lowest = min(learned.values())
    characters = sorted(piece for piece in learned if len(piece) == 1)
    unscored = [piece for piece in characters if learned[piece] <= lowest + 1e-4 * (len(characters) + 1)]
    for position, piece in enumerate(unscored):
        learned[piece] = lowest + 1e-4 * position
    ordered = sorted(learned.items(), key=lambda item: (-item[1], item[0]))
    backend.model = models.Unigram(fixed + ordered, unk_id=model["unk_id"], byte_fallback=model["byte_fallback"])
