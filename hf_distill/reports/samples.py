"""What models answer to some texts, in words, for a card."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_distill.evaluation.end_to_end import first_pieces
from hf_distill.models import evaluating, forward_arguments
from hf_distill.problems import TASKS
from hf_distill.reports.writer import REPLY, Writer

Text = str | Sequence[str]
LONGEST = 128  # tokens of a translation at most


def answers(model: PreTrainedModel, tokenizer: Any, task: str, texts: Sequence[Text]) -> list[str]:
    """A model's answer to each text: its class with the probability, its tags, a quantity, or what it writes.

    Args:
        model: of the task.
        tokenizer: its own.
        task: name of the task.
        texts: each a text, or the two of a pair; for tagging a sentence is split at white space.
    """
    if not texts:
        return []
    if TASKS[task].writes:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or LONGEST
        longest = REPLY if task == "text-generation" else min(LONGEST, positions - 1, tokenizer.model_max_length - 1)
        return Writer(model, tokenizer).writes(longest)([str(text) for text in texts])
    with torch.inference_mode(), evaluating(model):
        return [_labelled(model, tokenizer, task, text) for text in texts]


def _labelled(model: PreTrainedModel, tokenizer: Any, task: str, text: Text) -> str:
    parts: list[Any] = [text] if isinstance(text, str) else list(text)
    tags = TASKS[task].word_level
    words = " ".join(parts).split()
    read = tokenizer(
        *([words] if tags else parts), is_split_into_words=tags, truncation=True, return_tensors="pt", verbose=False
    )
    known = forward_arguments(model)
    logits = model(**{name: value.to(model.device) for name, value in read.items() if name in known}).logits[0]
    names: Any = model.config.id2label
    if tags:
        best, places = logits.argmax(dim=-1).tolist(), first_pieces(read.word_ids(0))
        return " ".join(f"{word}/{names[best[place]]}" for word, place in zip(words, places, strict=False))
    if len(logits) == 1:
        return f"{logits.item():.3f}"
    if model.config.problem_type == "multi_label_classification":
        likely = [(names[number], value) for number, value in enumerate(logits.sigmoid().tolist()) if value > 0.5]
        return ", ".join(f"{name} ({value:.2f})" for name, value in likely) or "none"
    value, number = logits.softmax(dim=-1).max(dim=-1)
    return f"{names[int(number)]} ({float(value):.2f})"
