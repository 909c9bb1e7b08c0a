"""New texts made of a recipe's training texts, none of them like a held-out one."""

import dataclasses
from typing import Any

from hf_distill.data.augmentation import augmented
from hf_distill.data.labelled import Splits
from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.paths import resolve
from hf_distill.tasks.settings import Settings


def made_texts(settings: Settings, splits: Splits, tokenizer: Any, notes: list[str]) -> dict[str, Any]:
    """Make the new texts of `data.augment`.

    Args:
        settings: of the run.
        splits: its rows.
        tokenizer: the teacher's, whose mask token stands for masked words.
        notes: for the console, appended to.
    Returns:
        `texts`; `sources`, the number of each one's source among the training texts; and `counts`.
    """
    augment: Any = settings.data.augment
    if augment.masked_language_model is not None:
        augment = dataclasses.replace(augment, masked_language_model=resolve(augment.masked_language_model))
    sources: list[int] = []
    counts: dict[str, int] = {}
    texts = [text for part in (splits.train, splits.unlabelled) for text in part["text"]]
    made = augmented(texts, augment, settings.seed, tokenizer=tokenizer, sources=sources, counts=counts)
    parts = (splits.validation, splits.test, splits.fidelity)
    held_out = {near_duplicate_key(text) for part in parts for text in part["text"]}
    fresh = [number for number, text in enumerate(made) if near_duplicate_key(text) not in held_out]
    left_out = len(made) - len(fresh)
    counts |= {"augmented texts": len(fresh), "augmented texts like held-out ones, left out": left_out}
    notes.append(f"{len(fresh):,} new texts; {left_out:,} were like held-out ones")
    return {
        "texts": [made[number] for number in fresh],
        "sources": [sources[number] for number in fresh],
        "counts": {name: number for name, number in counts.items() if number},
    }
