"""What models that write read of a recipe's rows: to what length, in whose tokens, and what becomes of each row."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import AutoConfig

from hf_distill.data.generation import MESSAGES, SOURCE, TEXT, WritingSplits
from hf_distill.data.language_modeling import continuing, cut_to_fit, language_model_rows
from hf_distill.data.tokenization import tokenize_pairs
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.workspace import hashed
from hf_distill.reports.writer import REPLY
from hf_distill.teachers.generating import as_prompt
from hf_distill.teachers.identity import tokenizer_hash

GGUF = ".gguf"


class GenerationRows:
    """How the models of a run read its rows, and in `counts` what became of the rows.

    Args:
        recipe: of the run.
        splits: its rows.
        teacher_path: where the teacher's config is.
        teacher: gives the teacher's tokenizer.
        student: gives the student's.
    """

    def __init__(
        self,
        recipe: Recipe,
        splits: WritingSplits,
        teacher_path: str,
        teacher: Callable[[], Any],
        student: Callable[[], Any],
    ) -> None:
        self.recipe, self.splits, self.teacher_path = recipe, splits, teacher_path
        self.teacher, self.student = teacher, student
        self.translates = recipe.task == "translation"
        self.counts: dict[str, int] = dict(splits.counts)
        self.tokenized: dict[str, tuple[datasets.Dataset, dict[str, int]]] = {}  # several steps read the same rows

    @cached_property
    def positions(self) -> int:
        """Tokens that the teacher has positions for; where they have no end, more than any text has."""
        path = Path(self.teacher_path)
        if str(path).endswith(GGUF):
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        else:
            config = AutoConfig.from_pretrained(self.teacher_path)
        return getattr(config.get_text_config(), "max_position_embeddings", None) or sys.maxsize

    @property
    def teacher_limit(self) -> int:
        """Tokens that the teacher reads at most."""
        return min(self.recipe.teacher.max_length, self.positions)

    @property
    def student_limit(self) -> int:
        """Tokens that the student reads at most: no more than its teacher has positions for."""
        return min(self.recipe.student.max_length, self.positions)

    @property
    def longest(self) -> int:
        """Tokens of a translation at most."""
        return min(self.student_limit, self.teacher_limit) - 1

    @property
    def limits(self) -> list[tuple[Any, int]]:
        """Both tokenizers, each with the tokens that its model reads at most."""
        return [(self.student(), self.student_limit), (self.teacher(), self.teacher_limit)]

    def as_student(self, rows: datasets.Dataset, what: str, *, with_teacher: bool = False) -> datasets.Dataset:
        """Rows as the student reads them and, `with_teacher`, beside that in its teacher's tokens."""
        if not with_teacher:
            return self.read(rows, what, self.student())
        return self.read(self.same_texts(rows, what), what, self.student(), self.teacher())

    def read(
        self, rows: datasets.Dataset, what: str, tokenizer: Any, teacher_tokenizer: Any = None
    ) -> datasets.Dataset:
        """Rows as models read them; what does not fit is left out or cut, and counted."""
        readers = [tokenizer_hash(each) for each in (tokenizer, teacher_tokenizer) if each is not None]
        key = hashed(rows._fingerprint, readers)
        if key not in self.tokenized:
            tokenized = tokenize_pairs if self.translates else language_model_rows
            self.tokenized[key] = tokenized(
                rows,
                tokenizer,
                max_length=self.student_limit,
                teacher_tokenizer=teacher_tokenizer,
                teacher_max_length=self.teacher_limit,
            )
        found, counts = self.tokenized[key]
        self.count(what, counts)
        return found

    def fitting(self, rows: datasets.Dataset, what: str) -> datasets.Dataset:
        """Pairs whose texts every model has room for."""
        fits = np.ones(len(rows), dtype=bool)
        for tokenizer, limit in self.limits:
            fits &= np.array([len(ids) <= limit for ids in tokenizer(list(rows[SOURCE]), verbose=False)["input_ids"]])
        if not fits.all():
            self.count(what, {"texts longer than a model reads, left out": int((~fits).sum())})
        return rows.select(np.flatnonzero(fits))

    def same_texts(self, rows: datasets.Dataset, what: str) -> datasets.Dataset:
        """Conversations or texts, without what one of the two tokenizers has no room for."""
        if self.translates:
            return rows
        all_counts: Counter[str] = Counter()
        for tokenizer, limit in self.limits:
            rows, counts = cut_to_fit(rows, tokenizer, min(limit, self.student_limit))
            all_counts.update(counts)
        self.count(what, all_counts)
        return rows

    def count(self, what: str, counts: Mapping[str, int]) -> None:
        """Note what became of the rows of a split."""
        kept = {name: number for name, number in counts.items() if name not in ("rows", "replies") and number}
        self.counts |= {f"{what}: {name}": number for name, number in kept.items()}

    def replying(self, tokenizer: Any) -> Any:
        """The tokenizer by which a model replies to messages, or goes on with plain texts."""
        return tokenizer if self.recipe.data.messages is not None else continuing(tokenizer)

    def prompts(self, *tokenizers: Any) -> list[str]:
        """What there is to reply to in the test texts, without what leaves some model no room; that is counted."""
        messages = found = first_messages(self.splits.test)
        for tokenizer in map(self.replying, tokenizers):
            room = min(self.positions, tokenizer.model_max_length) - REPLY
            found = [text for text in found if len(as_prompt(text, tokenizer)) <= room]
        if not found:
            raise ValueError(
                f"data: expected test texts to reply to. Of {len(messages)} first messages of users (or beginnings of "
                f"plain texts) none leaves the model room for {REPLY} more tokens. Give shorter ones, or a teacher "
                "that reads longer texts."
            )
        self.count(
            "test", {f"first messages without room for {REPLY} more tokens, not replied to": len(messages) - len(found)}
        )
        return found


def first_messages(rows: datasets.Dataset) -> list[str]:
    """What conversations begin with, or the first words of texts: different ones, to be replied to."""
    found: dict[str, None] = {}
    for row in rows:
        messages = [each["content"] for each in row.get(MESSAGES, []) if each["role"] == "user"]
        text = messages[0] if messages else " ".join(row.get(TEXT, "").split()[:8])
        if text.strip():
            found[text.strip()] = None
    return list(found)
