"""`Seq2SeqDistillationTrainer`: a `transformers.Seq2SeqTrainer` whose student also learns from a teacher."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback, TrainingArguments

from hf_distill.matching.base import Matching
from hf_distill.teachers.ensemble import TeacherEnsemble
from hf_distill.training.trainer import DistillationTrainer


class Seq2SeqDistillationTrainer(DistillationTrainer, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` whose student also learns from a teacher; see `DistillationTrainer`.

    The arguments are `Seq2SeqTrainer`'s, in its order: there is no `optimizer_cls_and_kwargs`.

    Raises:
        TypeError: arguments that are not `Seq2SeqTrainingArguments`.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[..., Tensor] | None = None,
        *,
        teacher_model: PreTrainedModel | TeacherEnsemble | str | Path | None = None,
        teacher_processing_class: Any = None,
        matching: Sequence[Matching] = (),
    ) -> None:
        if args is not None and not isinstance(args, Seq2SeqTrainingArguments):
            raise TypeError(
                f"Seq2SeqDistillationTrainer reads arguments of generation, which {type(args).__name__} does not have. "
                "Pass Seq2SeqDistillationArguments (or Seq2SeqTrainingArguments)."
            )
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,
            compute_loss_func,
            compute_metrics,
            callbacks,
            optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            teacher_model=teacher_model,
            teacher_processing_class=teacher_processing_class,
            matching=matching,
        )
