"""The question that a language model is asked for a text's class."""

import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

LETTERS = string.ascii_uppercase
PLACE = "{text}"


@dataclass(frozen=True)
class ClassPrompt:
    """An instruction, the classes and what each means, and how a text is shown.

    Attributes:
        classes: the names in the order of their numbers, or each name with what it means (None: the name says it).
        instruction: what is asked, in a sentence or two.
        template: how a text is shown, with `{text}` in its place.
        examples: pairs of a text and the name of its class.
        spellings: of a class, the answers that name it, all of them summed; a class without any is named by its name
            as it is, in lower case and with a capital.
    Raises:
        ValueError: fewer than two classes, names or spellings of two classes that are the same, a template without
            `{text}`, an example of no class, or something else than texts.

    >>> prompt = ClassPrompt({"negative": None, "positive": "somebody likes something"}, "How does the writer feel?")
    >>> print(prompt.plain("What a day!", by_letter=True))
    How does the writer feel?
    <BLANKLINE>
    A: negative
    B: positive (somebody likes something)
    <BLANKLINE>
    Text: What a day!
    <BLANKLINE>
    Answer with one letter and nothing else: A or B.
    <BLANKLINE>
    Answer:
    """

    classes: Sequence[str] | Mapping[str, str | None]
    instruction: str = "Which of these classes does the text belong to?"
    template: str = "Text: {text}"
    examples: Sequence[tuple[str, str]] = ()
    spellings: Mapping[str, Sequence[str]] | None = None

    def __post_init__(self) -> None:
        self._check_texts()
        self._check_answers()
        if self.template.count(PLACE) != 1:
            raise ValueError(
                f"template: expected a text with {PLACE} once, where the text goes; got {self.template!r}."
            )
        foreign = [name for _, name in self.examples if name not in self.names]
        if foreign:
            raise ValueError(f"examples: there is no class {foreign[0]!r}, only {', '.join(self.names)}.")

    def _check_texts(self) -> None:
        if isinstance(self.classes, str) or len(self.names) < 2:
            raise ValueError(f"A prompt needs at least two classes, got {self.classes!r}.")
        meanings = [each for each in self._meanings.values() if each is not None]
        texts = [("instruction", self.instruction), ("template", self.template)]
        texts += [("classes", each) for each in [*self.names, *meanings]]
        for pair in self.examples:
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(f"examples: expected pairs of a text and the name of its class, got {pair!r}.")
            texts += [("examples", each) for each in pair]
        for name, answers in (self.spellings or {}).items():
            if isinstance(answers, str) or not answers:
                raise ValueError(f"spellings: expected a list of answers that name {name!r}, got {answers!r}.")
            texts += [("spellings", each) for each in answers]
        for what, text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{what}: expected a text that is not blank, got {text!r}.")
        if len({*self.names}) < len(self.names):
            raise ValueError(f"The classes need different names, got {', '.join(self.names)}.")

    def _check_answers(self) -> None:
        unknown = sorted({*(self.spellings or {})} - {*self.names})
        if unknown:
            raise ValueError(f"spellings: there is no class {unknown[0]!r}, only {', '.join(self.names)}.")
        taken: dict[str, str] = {}
        for name, answers in zip(self.names, self.answers(by_letter=False), strict=True):
            for answer in answers:
                if taken.setdefault(answer, name) != name:
                    raise ValueError(
                        f"The answer {answer!r} must name one class, and names {taken[answer]!r} and {name!r}."
                    )

    @property
    def _meanings(self) -> Mapping[str, str | None]:
        return self.classes if isinstance(self.classes, Mapping) else {}

    @property
    def names(self) -> list[str]:
        """The classes in the order of their numbers."""
        return [*self.classes]

    def answers(self, by_letter: bool) -> list[list[str]]:
        """The answers that name each class.

        Args:
            by_letter: whether classes are answered by a letter each, rather than by their names.
        Raises:
            ValueError: more classes than letters.
        """
        if by_letter:
            return [[letter] for letter in self._letters()]
        given = self.spellings or {}
        found = [[*given.get(name, ())] or [name, name.lower(), name.capitalize()] for name in self.names]
        owners = Counter(answer for answers in found for answer in set(answers))
        # A case that is also another class's is no answer of either: "us" is not "US".
        return [
            [each for each in dict.fromkeys(answers) if owners[each] == 1 or each == name or name in given]
            for name, answers in zip(self.names, found, strict=True)
        ]

    def _letters(self) -> str:
        if len(self.names) > len(LETTERS):
            raise ValueError(f"There are {len(self.names)} classes and {len(LETTERS)} letters to answer with.")
        return LETTERS[: len(self.names)]

    def messages(self, text: str, by_letter: bool) -> list[dict[str, str]]:
        """The question as a conversation: the instruction as its system message, the examples, and the text.

        Args:
            text: whose class is asked for.
            by_letter: see `answers`.
        """
        labels = self._letters() if by_letter else self.names
        turns = [{"role": "system", "content": f"{self._task(by_letter)}\n\n{self._ask(by_letter)}"}]
        for example, name in self.examples:
            turns.append({"role": "user", "content": self._shown(example, by_letter)})
            turns.append({"role": "assistant", "content": labels[self.names.index(name)]})
        return [*turns, {"role": "user", "content": self._shown(text, by_letter)}]

    def plain(self, text: str, by_letter: bool) -> str:
        """The question as one text, for models without a chat template; the answer follows after a space."""
        labels = self._letters() if by_letter else self.names
        parts = [self._task(by_letter)]
        for example, name in self.examples:
            parts.append(f"{self._shown(example, by_letter)}\n\nAnswer: {labels[self.names.index(name)]}")
        return "\n\n".join([*parts, f"{self._shown(text, by_letter)}\n\nAnswer:"])

    def rendered(self, text: str, by_letter: bool, tokenizer: Any) -> tuple[str, str]:
        """The question as a local tokenizer's model reads it, and what stands between it and the answer.

        Args:
            text: whose class is asked for.
            by_letter: see `answers`.
            tokenizer: with or without a chat template. A template that knows no system message gets the instruction at
                the head of the first message.
        """
        if not getattr(tokenizer, "chat_template", None):
            return self.plain(text, by_letter), " "
        messages = self.messages(text, by_letter)
        try:
            made = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError:  # as templates refuse a role that they do not know
            made = ""
        if messages[0]["content"].strip() not in made:
            made = tokenizer.apply_chat_template(without_system(messages), tokenize=False, add_generation_prompt=True)
        return made, ""

    def record(self) -> dict[str, Any]:
        """Plain values that change with anything that a model is asked."""
        return {
            "classes": [[name, self._meanings.get(name)] for name in self.names],
            "instruction": self.instruction,
            "template": self.template,
            "examples": [list(example) for example in self.examples],
            "spellings": {name: list(answers) for name, answers in (self.spellings or {}).items()},
        }

    def _task(self, by_letter: bool) -> str:
        return "\n".join([self.instruction, "", *self._lines(by_letter)])

    def _lines(self, by_letter: bool) -> Iterator[str]:
        for number, name in enumerate(self.names):
            meaning = f" ({self._meanings[name]})" if self._meanings.get(name) else ""
            yield f"{self._letters()[number]}: {name}{meaning}" if by_letter else f"- {name}{meaning}"

    def _ask(self, by_letter: bool) -> str:
        labels = [*self._letters()] if by_letter else self.names
        listed = f"{', '.join(labels[:-1])} or {labels[-1]}"
        return f"Answer with one {'letter' if by_letter else 'class'} and nothing else: {listed}."

    def _shown(self, text: str, by_letter: bool) -> str:
        return f"{self.template.replace(PLACE, text)}\n\n{self._ask(by_letter)}"


def without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """A conversation whose system message stands at the head of its first message.

    >>> without_system([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}])
    [{'role': 'user', 'content': 'Be brief.\\n\\nHello'}]
    """
    first, second, *rest = messages
    return [{"role": second["role"], "content": f"{first['content']}\n\n{second['content']}"}, *rest]
