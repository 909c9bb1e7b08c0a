"""What the property tests share: how many examples, and what counts as an answer.

The quick suite tries a few examples, the same ones each time. `HF_DISTILL_EXAMPLES=10000` tries so many of each
property, other ones each time, and prints at the end how many inputs were tried.
"""

import atexit
import contextlib
import linecache
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

import hf_distill

PACKAGE = Path(hf_distill.__file__).parent
MANY = int(os.environ.get("HF_DISTILL_EXAMPLES", "0"))
REFUSED = object()  # stands for the result where a check of the package raised

_shared = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("quick", derandomize=True, max_examples=25, **_shared)
settings.register_profile("many", max_examples=max(MANY, 1), print_blob=True, **_shared)
settings.load_profile("many" if MANY else "quick")

_tried: Counter[str] = Counter()
_refused: Counter[str] = Counter()


def examples(quick: int, share: float = 1.0) -> settings:
    """Settings of a test that is slower or faster than others.

    Args:
        quick: examples in the quick suite.
        share: of `HF_DISTILL_EXAMPLES`.
    """
    return settings(max_examples=max(quick, round(MANY * share)) if MANY else quick)


def answer(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The result of a call, or `REFUSED` where a check of the package raised a ValueError or a TypeError.

    Any other error passes, and so do those that come from a library, or that the package does not raise by itself.
    """
    part = Path(sys._getframe(1).f_code.co_filename).stem.removeprefix("test_").removesuffix("_properties")
    _tried[part] += 1
    try:
        return function(*arguments, **options)
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError) or not is_raised_here(error) or len(str(error)) < 20:
            raise
        _refused[part] += 1
        return REFUSED


def is_raised_here(error: BaseException) -> bool:
    """Whether a `raise` of the package is where an error comes from."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return PACKAGE in Path(frame.filename).parents and line.startswith("raise ")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what libraries print on the standard error."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def _tell() -> None:
    for part, number in sorted(_tried.items()):
        print(f"{part}: {number} inputs tried, {_refused[part]} refused by a check", file=sys.__stdout__)
    print(f"all: {sum(_tried.values())} inputs tried", file=sys.__stdout__)


if MANY:
    atexit.register(_tell)
