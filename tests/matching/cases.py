"""States of both models, every kind of matching, and the references in numpy that several tests use."""

import math

import numpy as np
import torch

from hf_distill.matching.adversarial import AdversarialMatching
from hf_distill.matching.attention import AttentionMatching
from hf_distill.matching.base import States
from hf_distill.matching.hidden_states import HiddenStateMatching
from hf_distill.matching.relations import RelationMatching
from hf_distill.matching.variational import VariationalMatching

WIDTH, TEACHER_WIDTH = 8, 12
LENGTHS = (5, 3, 0, 6)
WORDS = {  # of each example, the pieces of each of its words: on the student's side and on the teacher's
    "student": ([1, 2], [1], [], [1, 1, 2]),
    "teacher": ([2, 1, 1], [3], [], [1, 2]),
}


def states(widths, lengths, words=None, heads=None, logits=None, seed=0, dtype=torch.float64):
    """Random states, padding included; with words, a special token on both ends of an example."""
    generator = torch.Generator().manual_seed(seed)
    if words is not None:
        lengths = [sum(pieces) + 2 if pieces else 0 for pieces in words]
    batch, length = len(lengths), max(lengths)
    draw = {"generator": generator, "dtype": torch.float64}
    hidden = [3 * torch.randn(batch, length, width, **draw) + 1 for width in widths]
    starts = torch.full((batch, length), -100)
    for row, pieces in enumerate(words or []):
        at = 1
        for size in pieces:
            starts[row, at : at + size] = torch.tensor([1] + [0] * (size - 1))
            at += size
    mask = torch.arange(length) < torch.tensor(lengths)[:, None]
    attentions = None
    if heads is not None:
        scores = [torch.randn(batch, heads, length, length, **draw) for _ in widths[1:]]
        scores = [score.masked_fill(~mask[:, None, None, :], -1e9).softmax(-1) for score in scores]
        attentions = tuple(score.to(dtype) for score in scores)
    if logits == "example":
        logits = torch.randn(batch, 3, **draw).to(dtype)
    elif logits == "position":
        logits = torch.randn(batch, length, 3, **draw).to(dtype)
    return States(tuple(state.to(dtype) for state in hidden), mask, attentions, starts if words else None, logits)


def padded(made, extra, side="right", filler=math.nan):
    """The same states with more padding, filled with what a careless kernel may leave there."""

    def grow(tensor, dims, value):
        sizes = (0, extra) if side == "right" else (extra, 0)
        return torch.nn.functional.pad(tensor, (0, 0) * (tensor.dim() - 1 - dims[-1]) + sizes * len(dims), value=value)

    return States(
        hidden=tuple(grow(state, [1], filler) for state in made.hidden),
        mask=grow(made.mask, [1], False),
        attentions=None if made.attentions is None else tuple(grow(each, [2, 3], 0.5) for each in made.attentions),
        word_starts=None if made.word_starts is None else grow(made.word_starts, [1], -100),
        logits=grow(made.logits, [1], filler) if made.logits is not None and made.logits.dim() == 3 else made.logits,
    )


def models(granularity="token", heads=None, teacher_heads=None, teacher_width=TEACHER_WIDTH, dtype=torch.float64):
    """A student of three states and a teacher of four, on a batch whose third example is empty."""
    words = (WORDS["student"], WORDS["teacher"]) if granularity != "token" else (None, None)
    return (
        states([WIDTH] * 3, LENGTHS, words[0], heads, seed=1, dtype=dtype),
        states([teacher_width] * 4, LENGTHS, words[1], teacher_heads, "example", seed=2, dtype=dtype),
    )


def built(matching, student, teacher):
    widths = ([state.shape[-1] for state in made.hidden] for made in (student, teacher))
    matching.build(*widths, student=student, teacher=teacher)
    return matching


LAYERS = {1: 2, -1: -1}
PAIRS = [(1, 2), (2, 3)]
KINDS = {
    "mse": lambda **kwargs: HiddenStateMatching(LAYERS, **kwargs),
    "cosine": lambda **kwargs: HiddenStateMatching(LAYERS, loss="cosine", **kwargs),
    "attention": lambda **kwargs: AttentionMatching(LAYERS, **kwargs),
    "relation": lambda **kwargs: RelationMatching(LAYERS, heads=4, **kwargs),
    "variational": lambda **kwargs: VariationalMatching(LAYERS, **kwargs),
    "latent": lambda **kwargs: VariationalMatching(LAYERS, latent_size=3, **kwargs),
    "adversarial": lambda **kwargs: AdversarialMatching(LAYERS, hidden_size=7, **kwargs),
}


def case(kind, granularity, **kwargs):
    torch.manual_seed(0)
    heads = {"heads": 2, "teacher_heads": 2} if kind == "attention" else {}
    student, teacher = models(granularity, **heads, **kwargs)
    return built(KINDS[kind](granularity=granularity), student, teacher), student, teacher


def np_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def np_units(made, layer, granularity, number=None):
    """A list of (units, width), one an example."""
    found = []
    for row, state in enumerate(made.hidden[layer].detach().numpy()):
        state = state[made.mask[row].numpy()]
        if granularity == "sequence":
            state = state.mean(0, keepdims=True) if len(state) else state
        elif granularity == "word":
            pieces, words = made.word_starts[row][made.mask[row]].tolist(), []
            for vector, start in zip(state, pieces, strict=True):
                if start == 1:
                    words.append([])
                if start >= 0:
                    words[-1].append(vector)
            state = np.array([np.mean(word, axis=0) for word in words]).reshape(-1, state.shape[-1])
        found.append(state if number is None else state[: number[row]])
    return found


def np_both(student, teacher, pair, granularity):
    sizes = [
        min(len(a), len(b))
        for a, b in zip(np_units(student, 0, granularity), np_units(teacher, 0, granularity), strict=True)
    ]
    return np_units(student, pair[0], granularity, sizes), np_units(teacher, pair[1], granularity, sizes)


def np_items(matching, student, teacher, compare):
    """`compare(number of the pair, student units, teacher units, example)` -> (units,), averaged over the pairs."""
    values = []
    for number, pair in enumerate(PAIRS):
        both = zip(*np_both(student, teacher, pair, matching.granularity), strict=True)
        values.append(np.concatenate([compare(number, *units, row) for row, units in enumerate(both)]))
    return np.mean(values, axis=0)


def weights(module):
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def np_softplus(x):
    return np.logaddexp(0, x)


GRANULARITIES = ("token", "word", "sequence")
