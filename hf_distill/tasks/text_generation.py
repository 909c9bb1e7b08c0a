"""Text generation: replies in a dialogue, or the continuation of plain texts."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import datasets
from transformers import DataCollatorForSeq2Seq

from hf_distill.data.generation import MESSAGES, TEXT
from hf_distill.data.language_modeling import continuing, cut_to_fit, language_model_rows
from hf_distill.environment import optional
from hf_distill.reports.generation import compare_generation
from hf_distill.reports.report import Report
from hf_distill.reports.writer import REPLY, Writer
from hf_distill.tasks.base import Trained
from hf_distill.tasks.generation import GenerativeTask
from hf_distill.teachers.generating import as_prompt

PROMPTS = 64  # first messages of test conversations that the models reply to


class TextGeneration(GenerativeTask):
    """A student that is a causal language model."""

    greater_is_better = False
    lora_task = "CAUSAL_LM"
    cache_batch = 8
    fitting_metrics = ("bits_per_byte",)

    @property
    def checks(self) -> Sequence[Callable[[], None]]:
        """What raises a ValueError for whatever would fail later."""
        return *super().checks, self.check_prompts

    def check_prompts(self) -> None:
        """Raise a ValueError where there is nothing to reply to, or nothing tells how to write a conversation down."""
        if self.settings.data.messages is not None and self.teacher_tokenizer.chat_template is None:
            raise ValueError(
                f"data.messages: the tokenizer of {self.settings.teacher.model} has no chat template, so nothing says "
                "how to write a conversation down. Save it with tokenizer.chat_template = ..., or give plain texts: "
                "data.text."
            )
        optional("sacrebleu", "generation")  # compares the replies of two models
        self.prompts(self.teacher_tokenizer)

    @property
    def selection_metric(self) -> str:
        """Nats a target token: of one tokenizer, they fall with the bits a byte."""
        return "loss"

    def limited(self, tokenizer: Any, teacher_tokenizer: Any) -> Any:
        """With the template of the messages, or one that continues plain texts."""
        return self.replying(tokenizer)

    def replying(self, tokenizer: Any) -> Any:
        """The tokenizer with which a model replies to messages, or continues plain texts."""
        return tokenizer if self.settings.data.messages is not None else continuing(tokenizer)

    def texts(self, rows: datasets.Dataset) -> list[str]:
        """All messages, or the texts."""
        if MESSAGES in rows.column_names:
            return [message["content"] for row in rows for message in row[MESSAGES]]
        return [text for text in rows[TEXT] if text]

    # Rows

    def tokenized(
        self, rows: datasets.Dataset, tokenizer: Any, **teacher: Any
    ) -> tuple[datasets.Dataset, dict[str, int]]:
        """Conversations or texts, cut to what the student reads."""
        return language_model_rows(rows, tokenizer, **teacher)

    def shared_texts(self, rows: datasets.Dataset, what: str) -> datasets.Dataset:
        """Conversations or texts, without what one of the two tokenizers has no room for."""
        all_counts: Counter[str] = Counter()
        for tokenizer, limit in self.limits:
            rows, counts = cut_to_fit(rows, tokenizer, min(limit, self.student_limit))
            all_counts.update(counts)
        self.count(what, all_counts)
        return rows

    def distillation_rows(self) -> datasets.Dataset:
        """The training rows."""
        return self.rows_of(self.splits.train, "training")

    def collator(self, tokenizer: Any, model: Any) -> Any:
        """Pads the tokens and their labels."""
        return DataCollatorForSeq2Seq(tokenizer, None)

    # The end

    def prompts(self, *tokenizers: Any) -> list[str]:
        """What there is to reply to in the test texts; what leaves some model no room is left out and counted."""
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

    def compare(self, trained: Trained) -> Report:
        """Measure the language models on the test rows."""
        settings = self.settings
        models = {name: Writer(*getattr(trained, name)) for name in ("teacher", "student", "baseline")}
        if settings.teacher.fine_tune is not None:
            models["untuned_teacher"] = Writer(*self.models.load(self.models.source))
        test = self.shared_texts(self.splits.test, "test")
        rows = {name: self.read(test, "test", writer.tokenizer) for name, writer in models.items()}
        prompts = self.prompts(*(writer.tokenizer for writer in models.values()))
        replying = {
            name: dataclasses.replace(writer, tokenizer=self.replying(writer.tokenizer))
            for name, writer in models.items()
        }
        report = compare_generation(
            replying,
            rows,
            prompts[:PROMPTS],
            more_students=[(Writer(*student), Writer(*baseline)) for student, baseline in trained.more],
            quote=settings.compare.quote,
            detailed_costs=settings.compare.detailed_costs,
            teacher_floor=settings.teacher.floor,
            resamples=settings.compare.resamples,
            seed=settings.seed,
        )
        return dataclasses.replace(report, run={"curves_of": "loss, nats a token"})

    @property
    def example(self) -> str:
        """A message, or the beginning of a text."""
        return first_messages(self.splits.test)[0] if self.settings.compare.quote else "Some text"


def first_messages(rows: datasets.Dataset) -> list[str]:
    """The first messages of conversations, or the first words of texts: different ones, to be replied to."""
    found: dict[str, None] = {}
    for row in rows:
        messages = [each["content"] for each in row.get(MESSAGES, []) if each["role"] == "user"]
        text = messages[0] if messages else " ".join(row.get(TEXT, "").split()[:8])
        if text.strip():
            found[text.strip()] = None
    return list(found)
