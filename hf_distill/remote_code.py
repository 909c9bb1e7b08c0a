"""Code that models and metrics bring along runs only where it was asked for, by a key that exists."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hf_distill.paths import is_hub_id

logger = logging.getLogger(__name__)


@contextmanager
def refused_with(remedy: str, name: object) -> Iterator[None]:
    """Say what allows a model's own code, where transformers names an argument that the user has no place for.

    Args:
        remedy: a sentence.
        name: of the model.
    Raises:
        ValueError: the model has code of its own.
    """
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(f"{name} brings code of its own, which is not run unless you ask for it. {remedy}") from error


def how_to_allow(key: str, name: str) -> str:
    """A sentence on how a recipe allows the code of a model or a metric.

    Args:
        key: that allows it, whose section has the key `revision` too.
        name: a Hub id, or a path.
    """
    if not is_hub_id(name):
        return f"Read it; then, if you trust it, set {key}: true."
    return (
        f"Read it at https://huggingface.co/{name}; then, if you trust it, set {key}: true and "
        f"{key.rpartition('.')[0]}.revision to the commit that you read."
    )


def suggest_revision(key: str, name: str, commit: str | None = None) -> None:
    """Warn where code of the Hub was asked for at whatever commit is the newest.

    Args:
        key: that pins it.
        name: a Hub id; of a path there is nothing to pin.
        commit: that runs now, where it is known.
    """
    if is_hub_id(name):
        logger.warning(
            f"{name} brings code of its own, and its owner can change it at any time: {key} says which commit is run. "
            f"Set it to the one that you read{f'; the newest is {commit}' if commit else ''}."
        )
