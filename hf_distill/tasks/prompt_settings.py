"""What a recipe says of a teacher behind a prompt: the question, the server and the price."""

import copy
import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_distill.checked import Limits, limited
from hf_distill.teachers.prompts import ClassPrompt

AGREEMENT = "agreement_with_teacher"  # what selects models where no text has a label
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass
class Prompt:
    """What a language model is asked for the class of a text; see `hf_distill.teachers.ClassPrompt`.

    Attributes:
        classes: names, or each name with what it means (null: the name says it).
        instruction: what is asked, in a sentence or two.
        template: how a text is shown, with `{text}` in its place.
        examples: pairs of a text and the name of its class.
        spellings: of a class, the answers that name it. A class without any is named by its name in three cases.
        method: one of the ways of `hf_distill.PromptedTeacher`. None: of a local model `answers`; of a server the first
            way that it offers.
        samples: answers a text, where a server returns no log-probabilities.
        prior: texts without content, `N/A` for instance, whose answers show a prior of the classes, which is taken out.
        batch_size: answers a forward of a local model.
    """

    classes: dict[str, str | None] | list[str]
    instruction: str = ClassPrompt.instruction
    template: str = ClassPrompt.template
    examples: list[list[str]] = field(default_factory=list)
    spellings: dict[str, list[str]] = field(default_factory=dict)
    method: Literal["answers", "letters", "scoring", "structured", "hard"] | None = None
    samples: int = limited(Limits(1, 1000), 8)
    prior: list[str] = field(default_factory=list)
    batch_size: int = limited(Limits(1, 100_000), 32)

    @property
    def question(self) -> ClassPrompt:
        """The question itself.

        Raises:
            ValueError: see `ClassPrompt`.
        """
        examples = [(each[0], each[1]) if len(each) == 2 else each for each in self.examples]
        try:
            return ClassPrompt(self.classes, self.instruction, self.template, examples, self.spellings)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"teacher.prompt: {error}") from error


@dataclass
class Server:
    """An OpenAI-compatible server (vLLM, SGLang, llama.cpp, TGI, a vendor).

    Attributes:
        url: of its interface, `http://localhost:8000/v1` for instance.
        model: name of the model on the server.
        api_key_env: name of the environment variable that holds the key. None: no key is sent.
        concurrency: how many requests are in flight at a time.
        timeout: seconds a request.
        retries: how often a request is sent again after a temporary error; the server's Retry-After is waited for.
        extra: more arguments of each request, `extra_body` for instance.
    """

    url: str
    model: str
    api_key_env: str | None = None
    concurrency: int = limited(Limits(1, 1024), 8)
    timeout: float = limited(Limits(0.0, 86_400.0, above=True), 120.0)
    retries: int = limited(Limits(0, 100), 5)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def api_key(self) -> str | None:
        """The key; None where none is asked for.

        Raises:
            ValueError: the variable is not set. Its name is not shown, since a key may stand in its place.
        """
        if self.api_key_env is None:
            return None
        found = os.environ.get(self.api_key_env) if VARIABLE.fullmatch(self.api_key_env) else None
        if not found:
            raise ValueError(
                "teacher.server.api_key_env: expected the name of an environment variable that holds the key, and no "
                "variable of the given name is set. Set it (export NAME=...), or leave the key out for a server that "
                "asks for none. The key itself is never part of a recipe."
            )
        return found


@dataclass
class Price:
    """What a teacher's answers and this machine cost, in any one currency.

    Attributes:
        input: a million tokens read.
        output: a million tokens written.
        machine_hour: an hour of the machine that trains and runs the student.
    """

    input: float = limited(Limits(0.0), 0.0)
    output: float = limited(Limits(0.0), 0.0)
    machine_hour: float = limited(Limits(0.0), 0.0)


def with_prompt_defaults(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values with what they leave open, where the teacher is behind a prompt.

    `data.label` is then absent unless it is given, and a student without `student.base` starts from random weights.

    Args:
        content: plain values; they are not changed.

    >>> with_prompt_defaults({"teacher": {"prompt": {}}, "data": {"path": "x"}})["data"]
    {'label': None, 'path': 'x'}
    """
    if not isinstance(content, dict):
        return content
    teacher, data, student = (content.get(name, {}) for name in ("teacher", "data", "student"))
    if not all(isinstance(each, dict) for each in (teacher, data, student)) or teacher.get("prompt") is None:
        return content
    made = copy.copy(content)
    made["data"] = {"label": None, **data} if "data" in content else data
    made["student"] = {"from_teacher": student.get("base") is not None, **student}
    return {name: value for name, value in made.items() if name in content or name == "student"}
