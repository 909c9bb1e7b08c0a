"""How a card says to load a student: a block between two markers, rendered from a template for an address.

The first marker holds what the template needs, so that a push renders the block again for its repository.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Template

from hf_distill.hub.markdown import code, literal, visible
from hf_distill.problems import TASKS

BEGIN, SETTINGS_END, END = "<!-- hf_distill usage ", " -->\n", "\n<!-- end of hf_distill usage -->"
CARD_END = "<!-- end of hf_distill card -->"  # the last line of a card, so that a push knows one that was cut
TEMPLATE = Path(__file__).with_name("usage_template.md")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Usage:
    """What the usage of a student depends on.

    Attributes:
        task: of the student.
        load_from: a repository's "user/name", or the name of a folder.
        on_hub: whether it is a repository.
        example: what is read: a text, the two of a pair, or the words of a sentence.
        trust: whether the student brings its own code.
        several: whether a text may have several classes.
        onnx: the exported files beside it, each with its bytes.
    """

    task: str
    load_from: str
    on_hub: bool
    example: Sequence[str]
    trust: bool = False
    several: bool = False
    onnx: Sequence[Sequence[Any]] = ()

    @property
    def text(self) -> str:
        """The block without its markers, in Markdown."""
        task = TASKS[self.task]
        file = f"onnx/{self.onnx[0][0]}" if self.onnx else ""
        return Template(TEMPLATE.read_text(encoding="utf-8")).render(
            task=self.task,
            word_level=task.word_level,
            writes=task.writes,
            load_from=literal(self.load_from),
            on_hub=self.on_hub,
            trust=", trust_remote_code=True" if self.trust else "",
            example=written(self.example, task.word_level),
            several=self.several,
            onnx=" or ".join(f"{code(f'onnx/{name}')} ({size:,} bytes)" for name, size in self.onnx),
            onnx_file=literal(file if self.on_hub else f"{self.load_from}/{file}"),
        )

    @property
    def block(self) -> str:
        """The block with its markers."""
        given = {name: value for name, value in asdict(self).items() if value or name == "on_hub"}
        settings = visible(json.dumps(given, ensure_ascii=False))
        for sign in "<>-":  # so that no example can end the comment that the settings are in
            settings = settings.replace(sign, f"\\u{ord(sign):04x}")
        return f"{BEGIN}{settings}{SETTINGS_END}{self.text}{END}"


def written(example: Sequence[str], word_level: bool) -> list[str]:
    """An example as Python writes it: one text, two, or one list of words.

    >>> written(["So say\\nwe all"], word_level=False), written(["So", "say"], word_level=True)
    (['"So say we all"'], ['["So", "say"]'])
    """
    texts = [literal(" ".join(text.split())) for text in example]
    return [f"[{', '.join(texts)}]"] if word_level else texts


def addressed(card: str, repo_id: str) -> str:
    """A card whose usage loads the student from the Hub.

    Only the block between the markers is rendered again. A card without markers stays as it is: hf_distill 0.1 wrote
    none, and neither do other tools. So does a block that is not what this version writes for its settings: a person,
    or another version of hf_distill, changed it. The latter two are told.

    Args:
        card: of a student.
        repo_id: where the student will be.

    >>> card = Usage("text-classification", "student", on_hub=False, example=["So"]).block
    >>> addressed(card, "me/x").splitlines()[4]
    'classify = pipeline("text-classification", "me/x")'
    """
    before, begin, rest = card.partition(BEGIN)
    settings, settings_end, rest = rest.partition(SETTINGS_END)
    text, end, after = rest.partition(END)
    if not begin:
        return card
    usage = _read(settings) if settings_end and end else None
    if usage is None or usage.text != text:
        logger.warning(
            "README.md: the usage between the markers of hf_distill is not what this version writes, so it is "
            "published as it is. Check that it loads the student from %s, or write the card again.",
            repo_id,
        )
        return card
    return f"{before}{replace(usage, load_from=repo_id, on_hub=True).block}{after}"


def _read(settings: str) -> Usage | None:
    """The settings in a marker; None where they are not those of this version."""
    try:
        usage = Usage(**json.loads(settings))
    except (ValueError, TypeError):  # no JSON, or other fields
        return None
    texts = isinstance(usage.example, list) and all(isinstance(text, str) for text in usage.example)
    files = isinstance(usage.onnx, list | tuple) and all(
        isinstance(file, list) and len(file) == 2 for file in usage.onnx
    )
    return usage if usage.task in TASKS and texts and usage.example and files else None
