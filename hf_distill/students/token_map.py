"""What the tokens of one tokenizer are in another."""

import json

from tokenizers import Tokenizer, models
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# While WordPiece is trained, the characters inside a word are moved to Unicode's private planes: room for 131,072, so
# that the rare ideographs and the mojibake beyond have to stay out.
CONTINUING = 0xF0000
# Models mark the two ends of a sequence with either pair of roles, and train them for the same purpose.
SAME_ROLE = {"eos_token": "sep_token", "sep_token": "eos_token", "cls_token": "bos_token", "bos_token": "cls_token"}


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
