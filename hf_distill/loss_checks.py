"""What the losses accept, tensors that belong together and numbers that divide or weight them; and logits divided."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, *UNSIGNED)

# -inf becomes this finite number before any logarithm: exp of it is exactly 0, so 0 · log 0 comes out as 0 by plain
# arithmetic, in values and in gradients, without a mask over the classes. It leaves float32 room for a factor of 1e10
# (temperature², loss weights, loss scaling), and is below any logit but -inf and `torch.finfo(torch.float32).min`,
# another usual mask.
RULED_OUT = -1e28

# Float32 holds the square of every number between these, and its inverse. Beyond, 0 times the square would be NaN.
LEAST, GREATEST = 1e-18, 1e18


def checked_number(name: str, value: Any, expected: str, low: float, high: float = GREATEST) -> float:
    """A setting of a loss as a float.

    Args:
        name: of the setting.
        value: whatever was given.
        expected: follows the name, and says what to do.
        low: the least value.
        high: the greatest value.
    Raises:
        ValueError: it is no number, or out of range. A bool is no number.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or value < low or not value <= high:
        raise ValueError(f"{name} {expected.format(value=value if isinstance(value, Real) else repr(value))}")
    return float(value)


def checked_temperature(temperature: Any) -> float:
    """A temperature as a float.

    Raises:
        ValueError: it is no number, or not between 1e-18 and 1e18.
    """
    expected = (
        "must be positive and finite, got {value}: logits are divided by it, and losses multiplied by its square. It "
        f"is a number from {LEAST} to {GREATEST}. Use 1.0 for the models' own probabilities, a higher value to soften "
        "them."
    )
    return checked_number("temperature", temperature, expected, LEAST)


def check_tensors(**tensors: Tensor) -> None:
    """Raise unless all are dense tensors of real numbers, on one device, with at least one class.

    Args:
        tensors: by the names of their arguments.
    Raises:
        TypeError: something else than a tensor.
        ValueError: a sparse or nested tensor, other numbers, several devices, or no class.
    """
    first = next(iter(tensors))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} must be a tensor, got {type(tensor).__name__}. Pass model(...).logits, or make a tensor of "
                "numbers with torch.as_tensor."
            )
        if tensor.layout is not torch.strided or tensor.is_nested:
            raise ValueError(
                f"{name} must be a dense tensor, got {tensor.layout}. Convert it, by to_dense() or padding."
            )
        if tensor.dtype not in (*FLOATS, *INTEGERS):
            raise ValueError(
                f"{name} must hold real numbers, got {tensor.dtype}. Convert it, by {name}.float() where its numbers "
                "are logits."
            )
        if tensor.device != tensors[first].device:
            raise ValueError(
                f"{name} is on {tensor.device} and {first} on {tensors[first].device}. Move one of them, by "
                f"{name}.to({first}.device)."
            )
        if tensor.ndim and not tensor.shape[-1] and name != "teacher_tail":
            raise ValueError(
                f"{name} must have at least one class in its last dimension, got the shape {tuple(tensor.shape)}. "
                "Check num_labels, or how the classes were selected."
            )


def check_same_shape(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Raise a ValueError unless both have one shape (..., classes)."""
    if student_logits.shape != teacher_logits.shape or student_logits.ndim == 0:
        raise ValueError(
            "student_logits and teacher_logits must have one shape (..., classes), since broadcasting would compare "
            f"unrelated rows; got {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}. Cut padding rows "
            "off the larger vocabulary; if the vocabularies really differ, use universal_logit_distance."
        )


def check_same_batch(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Raise a ValueError unless both agree in the dimensions before the length, or before the classes."""
    # Two dimensions are (batch, classes): a shorter batch is a mistake, not a shorter sequence.
    batch = slice(None, -2 if student_logits.ndim > 2 else -1)
    same_batch = student_logits.shape[batch] == teacher_logits.shape[batch]
    if student_logits.ndim != teacher_logits.ndim or student_logits.ndim == 0 or not same_batch:
        raise ValueError(
            "student_logits and teacher_logits must agree in all but the last two dimensions (length, vocabulary), or "
            f"all but the last one for (batch, classes); got {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}. Give both the same examples; give a single pair of sequences a batch of 1."
        )


def check_class_numbers(
    name: str, numbers: Any, classes: int, device: torch.device, ignored: int | None = None
) -> None:
    """Raise unless all are numbers of classes: another one is an error of the device, which ends the process there.

    Args:
        name: of the argument.
        numbers: any shape.
        classes: how many there are.
        device: of the logits.
        ignored: a number that stands for none.
    Raises:
        TypeError: something else than a tensor.
        ValueError: no integers, on another device, or out of range.
    """
    if not isinstance(numbers, Tensor):
        raise TypeError(f"{name} must be a tensor of integers, got {type(numbers).__name__}. Use torch.as_tensor.")
    if numbers.dtype not in INTEGERS:
        raise ValueError(
            f"{name} must be integers, got {numbers.dtype}: a rounded number would silently teach another class. Check "
            "that it was not swapped with the logits, or convert it with .long()."
        )
    if numbers.device != device:
        raise ValueError(f"{name} is on {numbers.device} and the logits on {device}. Move it, by {name}.to(device).")
    if torch.compiler.is_compiling() or numbers.is_meta:  # the numbers are not known there
        return
    numbers = numbers.long()
    outside = (numbers < 0) | (numbers >= classes)
    if ignored is not None:
        outside &= numbers != ignored
    if outside.any():
        found = sorted(set(numbers[outside].tolist()))
        also = "" if ignored is None else f", or {ignored} for none"
        raise ValueError(
            f"{name} must be numbers of classes from 0 to {classes - 1}{also}; got "
            f"{', '.join(map(str, found[:5]))}. Check that they were made for this model's classes or vocabulary."
        )


def as_finite(scaled: Tensor, logits: Tensor) -> Tensor:
    """Put the greatest number in the place of infinity where a finite logit was divided by less than 1 or narrowed.

    Args:
        scaled: changed in place, outside autograd.
        logits: what it was made of.
    """
    scaled.detach().masked_fill_((scaled == math.inf) & (logits != math.inf), torch.finfo(scaled.dtype).max)
    return scaled


def compute_dtype(student_logits: Tensor) -> torch.dtype:
    """What a loss computes in: float32, or float64 for a student of that."""
    return torch.float64 if student_logits.dtype == torch.float64 else torch.float32


def scaled(logits: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """logits / temperature, with -inf made finite (see `RULED_OUT`)."""
    divided = logits.to(dtype) / temperature
    # In place on the new tensor, and outside autograd: a clamp recorded by autograd would keep one more (..., classes)
    # tensor, and the gradient at a class that is ruled out is finite without it.
    divided.detach().clamp_(min=RULED_OUT)
    return as_finite(divided, logits) if temperature < 1 or logits.dtype == torch.float64 != dtype else divided


def softened(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, float]:
    """Both logits, checked and divided by the temperature, and that; the teacher's are detached."""
    temperature = checked_temperature(temperature)
    check_tensors(student_logits=student_logits, teacher_logits=teacher_logits)
    check_same_shape(student_logits, teacher_logits)
    dtype = compute_dtype(student_logits)
    return scaled(student_logits, temperature, dtype), scaled(teacher_logits.detach(), temperature, dtype), temperature
