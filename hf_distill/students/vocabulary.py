"""A smaller vocabulary for a student, and what each of its tokens is in the teacher's vocabulary."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# While WordPiece is trained, the characters inside a word are moved to Unicode's private planes: room for 131,072, so
# that the rare ideographs and the mojibake beyond have to stay out.
CONTINUING = 0xF0000
LAST_CHARACTER = 0x1FFFF
COVERAGE = 0.9995
# Models mark the two ends of a sequence with either pair of roles, and train them for the same purpose.
SAME_ROLE = {"eos_token": "sep_token", "sep_token": "eos_token", "cls_token": "bos_token", "bos_token": "cls_token"}


def student_tokenizer(
    teacher_tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], vocab_size: int
) -> PreTrainedTokenizerBase:
    """Trains a smaller tokenizer of the teacher's kind: in a small student most weights are token embeddings.

    Special tokens (with new ids), normalisation, model_max_length, padding and truncation sides and the chat template
    stay the teacher's.
    The same texts give the same vocabulary. Characters too rare to earn a row become unknown (byte-level kinds have
    bytes instead).

    Args:
        teacher_tokenizer: a fast tokenizer with a WordPiece, BPE or Unigram model; it is not changed.
        texts: what the student will read, or something like it; more than a few thousand are worth the seconds.
        vocab_size: at most this many tokens, special ones included. There are fewer where the texts hold no more.
    Raises:
        ValueError: the tokenizer is not fast or of another kind, there is no text, or vocab_size leaves no room
            beside the special tokens and the alphabet.
    """
    if not teacher_tokenizer.is_fast:
        raise ValueError(
            f"Expected a fast tokenizer (backed by the tokenizers library), got {type(teacher_tokenizer).__name__}, "
            "which cannot be trained on new texts. Load the teacher's fast tokenizer with AutoTokenizer, or leave "
            "out the smaller vocabulary: the student then reads the teacher's tokens."
        )
    if isinstance(texts, str):
        raise ValueError("Expected texts as an iterable of strings, got one string: its letters would be the texts.")
    texts = list(texts)
    if not any(text.strip() for text in texts):
        raise ValueError(
            f"Expected texts to learn a vocabulary from, got {len(texts)} without a word in them: every word would "
            "become unknown. Pass the texts of the training set."
        )
    description = json.loads(teacher_tokenizer.backend_tokenizer.to_str())
    kind = description["model"]["type"]
    if kind not in ("WordPiece", "BPE", "Unigram"):
        raise ValueError(
            f"Expected a WordPiece, BPE or Unigram tokenizer, got {kind} ({type(teacher_tokenizer).__name__}). "
            "Keep the teacher's vocabulary, or choose a teacher with one of these."
        )
    # A tokenizer with the special tokens and no vocabulary shows where they stand, whatever its class adds itself.
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
            f"and an alphabet of {len(alphabet)}), got {vocab_size}: no word would have a token. Raise vocab_size."
        )
    if kind == "WordPiece":
        train_wordpiece(student.backend_tokenizer, spelled, vocab_size)
        return with_settings_of(student, teacher_tokenizer)
    if len(words_of(backend, "two words")) == 1:
        # Such a tokenizer (Llama 2) marks spaces without splitting at them: whole sentences would become tokens.
        texts = [word for text in texts for word in text.split()]
    student = teacher_tokenizer.train_new_from_iterator(batched(texts), vocab_size, show_progress=False)
    if kind == "Unigram":
        order_unigram(student.backend_tokenizer)
    return with_settings_of(student, teacher_tokenizer)


def with_settings_of(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer itself, set as another is now: training a new one goes back to what that was made with."""
    for name in ("model_max_length", "padding_side", "truncation_side", "chat_template"):
        setattr(tokenizer, name, getattr(other, name))
    return tokenizer


def without_rare_characters(texts: list[str], limit: int) -> list[str]:
    """The texts with their rare characters made spaces: all but the ones that make up 99.95 %, at most `limit`.

    Emoji and mojibake would each take one row or two of the student's small table, and be seen a handful of times.
    The share is SentencePiece's default `character_coverage`.
    """
    counts = Counter(character for text in texts for character in text if not character.isspace())
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    covered = itertools.accumulate(counts[character] for character in ordered)
    enough = sum(count < COVERAGE * counts.total() for count in covered) + 1
    rare = [character for character in ordered if ord(character) > LAST_CHARACTER] + ordered[min(enough, limit) :]
    spaces = {ord(character): " " for character in rare}
    return [text.translate(spaces) for text in texts]


def batched(texts: list[str], size: int = 1000) -> Iterable[list[str]]:
    """The texts in lists of `size`, which the tokenizers library reads faster than one by one."""
    return (texts[start : start + size] for start in range(0, len(texts), size))


def is_byte_level(backend: Tokenizer) -> bool:
    """Whether the tokens spell bytes (GPT-2, RoBERTa, Llama 3, Qwen) and not characters."""
    description = json.loads(backend.to_str())
    steps = [description["pre_tokenizer"] or {}]
    steps += steps[0].get("pretokenizers", [])
    return any(step.get("type") == "ByteLevel" for step in steps)


def words_of(backend: Tokenizer, text: str) -> list[str]:
    """The words a tokenizer's model gets to see, in its own spelling: normalised, split, with its marks of spaces."""
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is None:
        return [text] if text else []
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def mark_continuing(word: str) -> str:
    """A word with all characters but the first moved to the private range, so that each carries its place."""
    return word[:1] + "".join(chr(CONTINUING + ord(character)) for character in word[1:])


def train_wordpiece(backend: Tokenizer, marked: list[list[str]], vocab_size: int) -> None:
    """Fills a WordPiece tokenizer by merging pairs, like the library's own trainer but the same every time.

    tokenizers 0.23 numbers the continuing characters ("##a") in the order of a hash map, and breaks ties between
    merges by these numbers (https://github.com/huggingface/tokenizers/issues/1794). Its BPE trainer sorts its
    alphabet, so continuing characters are made characters of their own here. Can go once that issue is closed.

    Args:
        backend: with the special tokens and no vocabulary yet; it is filled in place.
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
    """Puts a freshly trained Unigram vocabulary into one fixed order.

    tokenizers 0.23 finds the same pieces in every run, but sums their scores in the order of a hash map, and gives
    the characters that earned no score of their own the lowest one plus 0.0001, 0.0002, ... in such an order too.
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


def teacher_pieces(
    tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase
) -> dict[int, list[int]]:
    """Which of the teacher's tokens stand for each of the student's.

    A special token is the teacher's of the same role ([CLS] and <s>, [SEP] and </s>), or of the same name. A token
    that both write alike is itself. Any other is spelled out and read by the teacher's tokenizer, as the start of a
    word or as the middle of one, whichever it is for the student: "##ing", "ing" and "Ġing", "ing" and "▁ing".

    Returns:
        Student token id to teacher token ids; empty for a token that has no text of its own, like half a character.
    Raises:
        ValueError: a tokenizer is not fast, so its pieces cannot be looked at.
    """
    for name, either in (("student", tokenizer), ("teacher", teacher_tokenizer)):
        if not either.is_fast:
            raise ValueError(
                f"Expected two fast tokenizers, got {type(either).__name__} for the {name}: its pieces cannot be "
                "compared. Load it with AutoTokenizer, or let the student read the teacher's tokens."
            )
    special = special_pieces(tokenizer, teacher_tokenizer)
    teacher_vocabulary = teacher_tokenizer.get_vocab()
    mark = spelling(tokenizer.backend_tokenizer)
    spelled_alike = mark == spelling(teacher_tokenizer.backend_tokenizer)
    reader = WordReader(teacher_tokenizer.backend_tokenizer)
    pieces = {}
    for token, index in tokenizer.get_vocab().items():
        if index in special:
            pieces[index] = special[index]
        elif spelled_alike and token in teacher_vocabulary:
            pieces[index] = [teacher_vocabulary[token]]
        else:
            starts_word, text = spell_out(token, mark)
            pieces[index] = reader.read(text, starts_word)
    return pieces


def special_pieces(
    tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase
) -> dict[int, list[int]]:
    """Student special token id to the teacher's token of its role or its name, if there is one."""
    vocabulary, teacher_vocabulary = tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    pieces = {}
    for token in tokenizer.all_special_tokens:
        # GPT-2's one special token has every role: what ends a text says more about it than what is unknown.
        roles = [role for role in SAME_ROLE if getattr(tokenizer, role) == token]
        roles = [either for role in roles for either in (role, SAME_ROLE[role])]
        roles += [role for role in ("pad_token", "mask_token", "unk_token") if getattr(tokenizer, role) == token]
        found = [getattr(teacher_tokenizer, role) for role in roles] + [token]
        pieces[vocabulary[token]] = [
            teacher_vocabulary[candidate] for candidate in found if candidate in teacher_vocabulary
        ][:1]
    return pieces


def special_token_ids(
    teacher_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, int | None]:
    """The special token ids for a student's config: its tokenizer's, or its teacher's where it shares the vocabulary.

    A decoder starts with whatever token the teacher's starts with: its padding (T5, Marian), end or beginning.
    """
    names = [f"{role}_token_id" for role in ("pad", "bos", "eos", "sep", "cls", "mask")]
    of_teacher = {name: getattr(teacher_config, name, None) for name in [*names, "decoder_start_token_id"]}
    if tokenizer is None:
        return of_teacher
    found = {name: getattr(tokenizer, name, None) for name in names}
    start = of_teacher["decoder_start_token_id"]
    alike = [found[name] for name in names if start is not None and of_teacher[name] == start]
    return found | {"decoder_start_token_id": next((index for index in alike if index is not None), None)}


def spelling(backend: Tokenizer) -> str:
    """How a tokenizer writes where words start: "##" (or another prefix of continuations), "Ġ" for bytes, or "▁"."""
    model = json.loads(backend.to_str())["model"]
    if model["type"] == "WordPiece":
        return model["continuing_subword_prefix"]
    return "Ġ" if is_byte_level(backend) else "▁"


def spell_out(token: str, mark: str) -> tuple[bool, str]:
    """Whether a token starts a word, and its text without marks (see `spelling`).

    >>> spell_out("##ing", "##"), spell_out("Ġing", "Ġ")
    ((False, 'ing'), (True, 'ing'))
    """
    if mark not in ("Ġ", "▁"):
        return not token.startswith(mark), token.removeprefix(mark)
    text = ByteLevel().decode([token]) if mark == "Ġ" else token.replace(mark, " ")
    # A part of a multi-byte character decodes to the replacement character, and means nothing on its own.
    return token.startswith(mark), text.replace("\ufffd", "").strip()


class WordReader:
    """Reads text with a tokenizer as it would stand inside a sentence: at the start of a word, or in the middle."""

    def __init__(self, backend: Tokenizer):
        self.backend = backend
        self.model = backend.model
        self.mark = spelling(backend)
        self.vocabulary = backend.get_vocab(with_added_tokens=False)
        # Some tokenizers write the space before a word only where there is one, others set it before any text.
        self.adds_space = words_of(backend, "a")[0] != "a"
        bare_space = self.vocabulary.get(self.mark)
        self.meaningless = set() if bare_space is None else {bare_space}

    def read(self, text: str, starts_word: bool) -> list[int]:
        """The token ids of a text without special tokens."""
        if not text:
            return []
        if starts_word:
            words = words_of(self.backend, text if self.adds_space else " " + text)
            pieces = [piece.id for word in words for piece in self.model.tokenize(word)]
        else:
            # After a letter, most tokenizers continue the word with letters but start a new one with punctuation.
            first, *words = words_of(self.backend, "a" + text)
            continuation = first.removeprefix(self.mark).removeprefix("a")
            pieces = self.continue_word(continuation)
            pieces += [piece.id for word in words for piece in self.model.tokenize(word)]
        return [piece for piece in pieces if piece not in self.meaningless] or pieces

    def continue_word(self, text: str) -> list[int]:
        """The token ids of text that follows a letter."""
        if not isinstance(self.model, models.WordPiece):
            return [piece.id for piece in self.model.tokenize(text)] if text else []
        pieces = []
        while text:
            # The longest piece that fits, as WordPiece itself does; it can only be asked for whole words.
            lengths = range(len(text), 0, -1)
            length = next((length for length in lengths if self.mark + text[:length] in self.vocabulary), 0)
            if not length:
                return [self.vocabulary[self.model.unk_token]]
            pieces.append(self.vocabulary[self.mark + text[:length]])
            text = text[length:]
        return pieces
