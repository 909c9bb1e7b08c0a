"""Map the tokens of one tokenizer to those of another."""

import json

from tokenizers import Tokenizer, models
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# While WordPiece is trained, the characters inside a word are moved to Unicode's private planes. These have room for
# 131,072 characters, so rarer ideographs and mojibake beyond them are left out.
CONTINUING = 0xF0000
# Models mark the two ends of a sequence with either pair of roles; both pairs serve the same purpose.
SAME_ROLE = {"eos_token": "sep_token", "sep_token": "eos_token", "cls_token": "bos_token", "bos_token": "cls_token"}


def is_byte_level(backend: Tokenizer) -> bool:
    """Whether the tokens are made of bytes (GPT-2, RoBERTa, Llama 3, Qwen) instead of characters."""
    description = json.loads(backend.to_str())
    steps = [description["pre_tokenizer"] or {}]
    steps += steps[0].get("pretokenizers", [])
    return any(step.get("type") == "ByteLevel" for step in steps)


def words_of(backend: Tokenizer, text: str) -> list[str]:
    """The words of a text as a tokenizer's model receives them: normalised, split, and with its marks for spaces."""
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is None:
        return [text] if text else []
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def teacher_pieces(
    tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase
) -> dict[int, list[int]]:
    """The teacher's tokens that correspond to each of the student's.

    A special token corresponds to the teacher's token of the same role ([CLS] and <s>, [SEP] and </s>), or of the same
    name. A token that is written in the same way in both vocabularies corresponds to itself. Any other token is decoded
    to text and tokenized by the teacher's tokenizer, at the start or inside of a word as it is for the student: at the
    start of a word "ing", "Ġing" and "▁ing" correspond, inside a word "##ing" and "ing".

    Args:
        tokenizer: the student's.
        teacher_tokenizer: the teacher's.
    Returns:
        Student token id to teacher token ids; empty for a token without text of its own, such as half a character.
    Raises:
        ValueError: a tokenizer is not fast, so its tokens cannot be inspected.
    """
    for name, either in (("student", tokenizer), ("teacher", teacher_tokenizer)):
        if not either.is_fast:
            raise ValueError(
                f"Expected two fast tokenizers, got {type(either).__name__} for the {name}: its tokens cannot be "
                "compared. Load it with AutoTokenizer, or let the student use the teacher's vocabulary."
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
    """Student special token id to the teacher's token of the same role or name, if there is one."""
    vocabulary, teacher_vocabulary = tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    pieces = {}
    for token in tokenizer.all_special_tokens:
        # GPT-2's only special token has every role: the role of ending a text takes precedence over unknown.
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
    """The special token ids for a student's config: its tokenizer's, or the teacher's if it shares the vocabulary.

    The decoder start token has the same role as the teacher's: padding (T5, Marian), end or beginning.

    Args:
        teacher_config: the teacher's.
        tokenizer: the student's. None: the student has the teacher's vocabulary.
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
    """The mark by which a tokenizer tells word starts from continuations: "##" (or another prefix), "Ġ" or "▁"."""
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
    # A part of a multi-byte character decodes to the replacement character, which is no text.
    return token.startswith(mark), text.replace("\ufffd", "").strip()


class WordReader:
    """Tokenizes a text as if it stood inside a sentence, at the start of a word or in the middle of one."""

    def __init__(self, backend: Tokenizer):
        self.backend = backend
        self.model = backend.model
        self.mark = spelling(backend)
        self.vocabulary = backend.get_vocab(with_added_tokens=False)
        # Some tokenizers mark a space before a word only where the text has one, others before any text.
        self.adds_space = words_of(backend, "a")[0] != "a"
        bare_space = self.vocabulary.get(self.mark)
        self.spaces = set() if bare_space is None else {bare_space}

    def read(self, text: str, starts_word: bool) -> list[int]:
        """The token ids of a text without special tokens."""
        if not text:
            return []
        if starts_word:
            words = words_of(self.backend, text if self.adds_space else " " + text)
            pieces = [piece.id for word in words for piece in self.model.tokenize(word)]
        else:
            # After a letter, most tokenizers continue the word with letters, but start a new word with punctuation.
            first, *words = words_of(self.backend, "a" + text)
            continuation = first.removeprefix(self.mark).removeprefix("a")
            pieces = self.continue_word(continuation)
            pieces += [piece.id for word in words for piece in self.model.tokenize(word)]
        return [piece for piece in pieces if piece not in self.spaces] or pieces

    def continue_word(self, text: str) -> list[int]:
        """The token ids of text that follows a letter."""
        if not isinstance(self.model, models.WordPiece):
            return [piece.id for piece in self.model.tokenize(text)] if text else []
        pieces = []
        while text:
            # The longest piece that fits, as in WordPiece itself, whose API tokenizes whole words only.
            lengths = range(len(text), 0, -1)
            length = next((length for length in lengths if self.mark + text[:length] in self.vocabulary), 0)
            if not length:
                return [self.vocabulary[self.model.unk_token]]
            pieces.append(self.vocabulary[self.mark + text[:length]])
            text = text[length:]
        return pieces
