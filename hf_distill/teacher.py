"""What a teacher says: a live model, an ensemble of them, or columns that were cached."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill import columns, losses
from hf_distill.tasks import Task, base_model, problem_type


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode for a while, each of its modules put back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def is_placed(model: Any) -> bool:
    """Whether a model is quantised or was placed by a device map, and so must stay where it is."""
    return bool(getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False))


def forward_arguments(model: nn.Module) -> set[str]:
    """The names that a model's forward takes, read from the class since accelerate patches instances."""
    return set(inspect.signature(type(base_model(model)).forward).parameters) - {"self"}


def input_limits(model: PreTrainedModel) -> tuple[float, float]:
    """How many tokens a model has places for, and how many different ones it knows; infinite where nothing says so.

    Args:
        model: the tables of learnt or precomputed positions are found by their names, `position_embeddings` for
            instance; rotary and relative positions have no end.
    """
    places = [
        # A table's first rows may be kept for padding.
        table.num_embeddings - getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
        for name, table in model.named_modules()
        if isinstance(table, nn.Embedding) and name.endswith(("position_embeddings", "embed_positions", "wpe"))
    ]
    try:
        words = model.get_input_embeddings()
    except NotImplementedError:  # of a model that reads bytes, for instance
        words = None
    return min(places, default=math.inf), words.num_embeddings if isinstance(words, nn.Embedding) else math.inf


class TeacherEnsemble:
    """Several teachers that speak as one: the mixture of their probabilities.

    Its logits are the log of the members' mean probability at temperature 1 (the logit of it for multi-label models,
    the mean for regressions), so they can be cached and tempered like any teacher's.

    Args:
        models: with the same classes in the same order.
        weights: one number >= 0 a member, normalised to sum to one. None: equal.
    Raises:
        ValueError: no members, weights that do not fit, or members whose classes differ.
    """

    def __init__(self, models: Sequence[PreTrainedModel], weights: Sequence[float] | None = None) -> None:
        if not models:
            raise ValueError("TeacherEnsemble needs at least one model, got none.")
        weights = [1.0] * len(models) if weights is None else list(weights)
        if len(weights) != len(models) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"Expected {len(models)} weights >= 0 with a positive sum, got {weights}.")
        classes = [model.config.num_labels for model in models]
        if len(set(classes)) > 1:
            raise ValueError(f"The members of an ensemble need the same classes, got {classes} of them.")
        self.models = list(models)
        self.weights = [weight / sum(weights) for weight in weights]

    @property
    def config(self) -> Any:
        """The first member's config: the classes are everybody's."""
        return self.models[0].config

    def mixture(self, logits: Sequence[Tensor]) -> Tensor:
        """The ensemble's logits from its members'.

        Args:
            logits: one (..., classes) a member.
        """
        problem = problem_type(self.config, None)
        weights = torch.tensor(self.weights, device=logits[0].device)
        stacked = torch.stack([member.float() for member in logits])
        shaped = weights.view(-1, *[1] * (stacked.dim() - 1))
        if problem == "regression":
            return (shaped * stacked).sum(dim=0)
        if problem == "multi_label_classification":
            on = torch.logsumexp(F.logsigmoid(stacked) + shaped.log(), dim=0)
            off = torch.logsumexp(F.logsigmoid(-stacked) + shaped.log(), dim=0)
            return on - off
        return torch.logsumexp(F.log_softmax(stacked, dim=-1) + shaped.log(), dim=0)


class LiveTeacher:
    """Runs a teacher on batches, without gradients and without changing it.

    It is moved to `device` unless it is quantised or was placed by a device map: such a model stays where it is and its
    outputs are moved instead.

    Args:
        model: a model or an ensemble.
        device: the student's.
    """

    def __init__(self, model: PreTrainedModel | TeacherEnsemble, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.members = model.models if isinstance(model, TeacherEnsemble) else [model]
        self.arguments = set.intersection(*(forward_arguments(member) for member in self.members))
        for member in self.members:
            if not is_placed(member):
                member.to(device)  # type: ignore[arg-type]

    def inputs_from(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the teacher reads of a batch: its own inputs where it has some, else the student's, never labels."""
        own = columns.teacher_inputs(batch)
        inputs = own if "input_ids" in own else {**batch, **own}
        return {name: value for name, value in inputs.items() if name in self.arguments and name != "labels"}

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any], **kwargs: Any) -> Any:
        """The model's output, or for an ensemble a mapping with `logits` alone.

        Args:
            batch: collated, on the student's device.
            kwargs: more arguments of the forward, `output_hidden_states` for instance.
        """
        inputs = self.inputs_from(batch)
        outputs = []
        for member in self.members:
            there = member.device
            here = {name: value.to(there) if isinstance(value, Tensor) else value for name, value in inputs.items()}
            with evaluating(member):
                outputs.append(member(**here, **kwargs))
        if not isinstance(self.model, TeacherEnsemble):
            return outputs[0]
        return {"logits": self.model.mixture([output.logits.to(self.device) for output in outputs])}


def soft_loss(
    student_logits: Tensor,
    said: Mapping[str, Tensor],
    *,
    loss: str,
    problem: str,
    temperature: float,
    beta: float | None,
    labels: Tensor | None,
) -> Tensor:
    """How far the student is from what the teacher said, unreduced.

    Args:
        student_logits: (items, classes).
        said: `teacher_logits` (items, classes), or the three top-k columns, one row an item.
        loss: a name in `losses.LOSSES`; `forward_kl` stands for the natural loss of each problem.
        problem: see `tasks.problem_type`.
        temperature: > 0.
        beta: of the losses that have one; None: their own default.
        labels: (items,) class numbers, -100 where there is none, for the losses that look at the label.
    Returns:
        (items,)
    Raises:
        ValueError: a loss that does not fit the problem or the columns.
    """
    if columns.TOP_K_LOGITS in said:
        if loss == "universal_logit_distance":
            return losses.top_k_universal_logit_distance(
                student_logits, said[columns.TOP_K_LOGITS], said[columns.TAIL], temperature
            )
        if loss != "forward_kl":
            raise ValueError(
                "The cache holds the teacher's top-k logits, which only forward_kl can use (and, for two vocabularies, "
                f"universal_logit_distance); soft_target_loss is {loss!r}. Cache without top_k, or choose forward_kl."
            )
        return losses.top_k_forward_kl(
            student_logits, said[columns.TOP_K_LOGITS], said[columns.TOP_K_IDS], said[columns.TAIL], temperature
        )
    natural = {"multi_label_classification": "bernoulli_kl", "regression": "logit_mse"}.get(problem, "forward_kl")
    if loss == "forward_kl":
        loss = natural
    elif problem != "single_label_classification" and loss not in (natural, "logit_mse"):
        raise ValueError(
            f"soft_target_loss={loss!r} compares one choice among classes, but the student's problem is {problem}. "
            f"Choose {natural} or logit_mse, or leave the default."
        )
    extra: dict[str, Any] = {}
    if loss in ("jensen_shannon", "skewed_kl") and beta is not None:
        extra["beta"] = beta
    if loss == "decoupled_kd":
        none = torch.full(student_logits.shape[:-1], -100, device=student_logits.device)
        extra["labels"] = none if labels is None else labels
    return losses.LOSSES[loss](student_logits, said[columns.LOGITS], temperature, **extra)


def check_classes(student: Any, teacher: Any, task: Task) -> None:
    """Raise where a student and its teacher do not speak of the same classes.

    Args:
        student: config.
        teacher: config.
        task: of both.
    Raises:
        ValueError: another number of classes, or the same classes under other numbers.
    """
    if task.name not in ("text-classification", "token-classification"):
        return
    if student.num_labels != teacher.num_labels:
        raise ValueError(
            f"The student has {student.num_labels} classes {_classes(student)} and the teacher {teacher.num_labels} "
            f"{_classes(teacher)}. Soft targets need the same classes: give the student the teacher's num_labels and "
            "id2label."
        )
    named = [config for config in (student, teacher) if not _is_default(config)]
    if len(named) == 2 and dict(student.id2label) != dict(teacher.id2label):
        raise ValueError(
            f"The student's classes are {_classes(student)} and the teacher's {_classes(teacher)}: the same number, "
            "another order or other names. Give the student the teacher's id2label and number the labels by it."
        )


def shared_tokens(student: Any, teacher: Any, tokenizer: Any, teacher_tokenizer: Any) -> int | None:
    """How many tokens two models share that are given the same token ids; None where their tables are equally long.

    Tables of one tokenizer may differ in rows that only pad them to a round number.

    Args:
        student: config.
        teacher: config.
        tokenizer: the student's, if known.
        teacher_tokenizer: the teacher's, if known.
    Raises:
        ValueError: their tokens differ, or may differ: the teacher would silently read other words.
    """
    sizes = [config.get_text_config().vocab_size for config in (student, teacher)]
    remedy = (
        "Give the rows a teacher_input_ids column made with the teacher's tokenizer (and teacher_attention_mask), and "
        "pass teacher_processing_class=... to pad it. If both do read the same tokens, pass their tokenizer as "
        "processing_class and as teacher_processing_class."
    )
    if tokenizer is not None and teacher_tokenizer is not None:
        vocabularies = tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
        if vocabularies[0] != vocabularies[1]:
            differing = len(set(vocabularies[0].items()) ^ set(vocabularies[1].items()))
            raise ValueError(
                f"The tokenizers of student and teacher differ in {differing} tokens, and the rows hold only the "
                f"student's input_ids. {remedy}"
            )
        return None if sizes[0] == sizes[1] else min(*sizes, max(vocabularies[0].values()) + 1)
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"The student knows {sizes[0]} tokens and the teacher {sizes[1]}, and the rows hold only the student's "
            f"input_ids. {remedy}"
        )
    return None


def _classes(config: Any) -> list[str]:
    return [config.id2label[number] for number in sorted(config.id2label)]


def _is_default(config: Any) -> bool:
    return all(name == f"LABEL_{number}" for number, name in config.id2label.items())
