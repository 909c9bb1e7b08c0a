"""What a distillation adds to `transformers.TrainingArguments`: the weights, the temperature and the soft target
loss."""

import json
import math
from dataclasses import dataclass, field

from transformers import Seq2SeqTrainingArguments, TrainingArguments

from hf_distill.losses import LOSSES
from hf_distill.redaction import shareable
from hf_distill.teachers.placement import check_placement

# Metrics of which less is better, as they are called by themselves or at the end of a name.
FALLING = frozenset(
    "mse rmse mae perplexity ppl wer cer ter kl ece brier error bits_per_byte teacher_kl calibration_error".split()
)


@dataclass
class Objective:
    """The settings of the objective, one optimizer step at a time.

    `hard_label_weight * hard + soft_target_weight * soft + sum(matching.weight * matching)`, where each `_end` field,
    when set, is reached linearly at the last step. Evaluation always uses the end values, so that evaluations made at
    different steps compare.

    Raises:
        ValueError: a weight, temperature, fraction or chunk size out of range, or an unknown `soft_target_loss`.

    >>> Objective(temperature=4.0, temperature_end=1.0).at(progress=0.5).temperature
    2.5
    """

    hard_label_weight: float = field(
        default=0.5, metadata={"help": "Weight of the loss on the labels: >= 0. With 1 here and 0 there: no teacher."}
    )
    soft_target_weight: float = field(
        default=0.5, metadata={"help": "Weight of the loss on the teacher's outputs: >= 0. 0: the teacher is not run."}
    )
    temperature: float = field(
        default=2.0, metadata={"help": "Divides both models' logits before the softmax: > 0. Higher is softer."}
    )
    soft_target_loss: str = field(
        default="forward_kl",
        metadata={
            "help": f"One of {', '.join(LOSSES)}. The default turns into bernoulli_kl for multi-label models and into "
            "logit_mse for regression."
        },
    )
    soft_target_beta: float | None = field(
        default=None, metadata={"help": "beta of jensen_shannon and skewed_kl. None: the loss's own default."}
    )
    hard_label_weight_end: float | None = field(default=None, metadata={"help": "Reached linearly at the last step."})
    soft_target_weight_end: float | None = field(default=None, metadata={"help": "Reached linearly at the last step."})
    temperature_end: float | None = field(default=None, metadata={"help": "Reached linearly at the last step."})
    labelled_fraction: float | None = field(
        default=None,
        metadata={"help": "Share of labelled rows in every batch, between 0 and 1. None: rows as they come."},
    )
    loss_chunk_size: int | None = field(
        default=None, metadata={"help": "Positions whose logits are held at once in language model losses. None: all."}
    )

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise a ValueError that names the first setting out of range."""
        for name in ("hard_label_weight", "soft_target_weight", "hard_label_weight_end", "soft_target_weight_end"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number >= 0, got {value}")
        for name in ("temperature", "temperature_end"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a finite number > 0, got {value}")
        if self.soft_target_loss not in LOSSES:
            raise ValueError(f"soft_target_loss must be one of {', '.join(LOSSES)}; got {self.soft_target_loss!r}")
        beta = self.soft_target_beta
        if beta is not None and not (0 <= beta <= 1 and (beta < 1 or self.soft_target_loss != "skewed_kl")):
            limit = "from 0 to below 1" if self.soft_target_loss == "skewed_kl" else "from 0 to 1"
            raise ValueError(f"soft_target_beta of {self.soft_target_loss} must be {limit}, got {beta}")
        if self.labelled_fraction is not None and not 0 < self.labelled_fraction <= 1:
            raise ValueError(f"labelled_fraction must be above 0 and at most 1, got {self.labelled_fraction}")
        if self.loss_chunk_size is not None:
            raise ValueError(
                f"loss_chunk_size={self.loss_chunk_size}: losses of language models in chunks are not there yet, so it "
                "would save no memory. Leave it None."
            )

    def at(self, progress: float) -> "Weights":
        """The weights and the temperature at `progress` of the training, 0 at its start and 1 at its end."""

        def between(start: float, end: float | None) -> float:
            return start if end is None else start + (end - start) * progress

        return Weights(
            hard=between(self.hard_label_weight, self.hard_label_weight_end),
            soft=between(self.soft_target_weight, self.soft_target_weight_end),
            temperature=between(self.temperature, self.temperature_end),
        )

    @property
    def wants_soft_targets(self) -> bool:
        """Whether the soft targets weigh anything at any time."""
        return self.soft_target_weight > 0 or (self.soft_target_weight_end or 0) > 0

    @property
    def wants_labels(self) -> bool:
        """Whether the labels weigh anything at any time."""
        return self.hard_label_weight > 0 or (self.hard_label_weight_end or 0) > 0


@dataclass(frozen=True)
class Weights:
    """The settings that move along a schedule, at one moment of it."""

    hard: float
    soft: float
    temperature: float


def check_best_metric(name: str | None, *, told: bool = True) -> None:
    """Raise where the best checkpoint would be chosen by a name that an evaluation no longer has, or be the worst one.

    Args:
        name: `metric_for_best_model`.
        told: whether `greater_is_better` is given, or was given before `Trainer` filled it in.
    Raises:
        ValueError: a name of version 0.1.0; or a metric of which less is better, and nothing says so.
    """
    plain = (name or "").removeprefix("eval_")
    if not told and FALLING & {plain, plain.rsplit("_", 1)[-1]}:
        raise ValueError(
            f"metric_for_best_model={name!r}: less of it is better, and Trainer takes the greatest value for the best "
            'where a name does not end in "loss". Set greater_is_better=False.'
        )
    new = None
    if name is not None and name.endswith("loss_soft"):
        new = name.removesuffix("loss_soft") + "soft_loss"
    elif name is not None and name.endswith("loss_hard"):
        new = name.removesuffix("loss_hard") + "loss"
    if new is not None:
        raise ValueError(
            f"metric_for_best_model={name!r} is called {new!r} now: Trainer takes the greatest value for the best "
            'where a name does not end in "loss", so that the worst checkpoint was kept. Write the new name.'
        )


@dataclass
class Placement:
    """Where the weights of a live teacher are."""

    teacher_placement: str = field(
        default="replicate",
        metadata={
            "help": "replicate: on every process. shard: a part on each process, a layer gathered while it computes. "
            "offload: in the machine's memory, copied to the device while it computes. auto: replicate where it takes "
            "at most half of the free memory, else shard under several processes, else offload."
        },
    )


class Shown:
    """Training arguments whose text, which trackers keep and publish, has no token and no folder of this machine."""

    def to_json_string(self) -> str:
        """The arguments in JSON, as TensorBoard keeps them, see `redaction.shareable`."""
        return json.dumps(shareable(self.to_dict()), indent=2)  # type: ignore[attr-defined]  # of TrainingArguments


@dataclass
class DistillationArguments(Objective, Placement, Shown, TrainingArguments):
    """`TrainingArguments` plus the fields of `Objective` and `Placement`, and nothing else.

    Source:
        Hinton et al. 2015, arXiv:1503.02531. Half of the field's `alpha` means the weight of the labels, half the
        weight of the teacher, hence two plain weights.
    """

    def __post_init__(self) -> None:
        check_best_metric(self.metric_for_best_model, told=self.greater_is_better is not None)
        TrainingArguments.__post_init__(self)
        check_placement(self.teacher_placement)
        self.check()


@dataclass
class Seq2SeqDistillationArguments(Objective, Placement, Shown, Seq2SeqTrainingArguments):
    """`Seq2SeqTrainingArguments` plus the fields of `Objective` and `Placement`, and nothing else."""

    def __post_init__(self) -> None:
        check_best_metric(self.metric_for_best_model, told=self.greater_is_better is not None)
        Seq2SeqTrainingArguments.__post_init__(self)
        check_placement(self.teacher_placement)
        self.check()
