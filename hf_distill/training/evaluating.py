"""The evaluation of a distilled student: losses that are exact, whatever the batch size and the number of processes."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from hf_distill.paths import is_hub_id
from hf_distill.problems import Task
from hf_distill.training.arguments import Objective, Weights
from hf_distill.training.batch import Batch
from hf_distill.training.checks import Alignment
from hf_distill.training.divergence import LOWER, NAMED_ROWS, FiniteTrainer
from hf_distill.training.objective import Term
from hf_distill.training.streams import counted, note_rows_of_last_batch

logger = logging.get_logger(__name__)


class EvaluatingTrainer(FiniteTrainer):
    """`transformers.Trainer` that evaluates the terms of the objective; `DistillationTrainer` computes them."""

    task: Task
    teacher: Any
    alignment: Alignment
    _distils: bool
    _comparable: bool  # whether student and teacher have the same classes
    _evaluated: dict[str, Tensor]
    _unusable: dict[str, list[Tensor]]  # of each loss, which examples have NaN

    @property
    def settings(self) -> Objective:
        """The settings in force."""
        raise NotImplementedError

    def _batch(self, inputs: dict[str, Any]) -> Batch:
        raise NotImplementedError

    def _terms(
        self, model: nn.Module, batch: Batch, weights: Weights, evaluating: bool = False
    ) -> tuple[dict[str, Term], Any]:
        raise NotImplementedError

    def _get_dataloader(self, dataset: Any, *arguments: Any, **kwargs: Any) -> Any:
        """`Trainer`'s; of a stream that several processes read each gets its share of every batch."""
        if self._distils:
            workers = 0 if kwargs.get("is_training") else self.args.dataloader_num_workers
            dataset = counted(dataset, self.accelerator, workers)
        return super()._get_dataloader(dataset, *arguments, **kwargs)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """`Trainer`'s loop, with losses that are sums ÷ counts over the whole set, whatever the batch size.

        `<prefix>_loss` is the loss on the labels, comparable with `Trainer`'s, or the soft one where there are no
        labels; `<prefix>_soft_loss` is there whenever a teacher or its columns are.
        """
        self._evaluated, self._unusable = {}, {}
        if self._distils:  # Seq2SeqTrainer would gather the rows that fill up the last batch, too
            self.gather_function = self.accelerator.gather_for_metrics
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self.is_in_train:
            self._check_evaluation(metric_key_prefix)
        found = dict(output.metrics or {})
        losses = {
            name: (sums / counts.clamp(min=1)).item() for name, (sums, counts) in self._evaluated.items() if counts > 0
        }
        if self._distils and self.settings.wants_labels and "soft" in losses and "hard" not in losses:
            logger.warning(
                f"The rows of this evaluation have no labels, so {metric_key_prefix}_loss is the loss on the soft "
                "targets, which other evaluations do not compare with. If they have some, call their column `labels`."
            )
        for name, key in (("soft", "soft_loss"), ("soft", "loss"), ("hard", "loss")):
            if name in losses:
                found[f"{metric_key_prefix}_{key}"] = losses[name]
        return output._replace(metrics=found)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any, Any]:
        """One evaluation batch, labelled or not: the loss, the student's logits, the labels."""
        if not self._distils:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **kwargs)
        batch = self._batch(self._prepare_inputs(inputs))
        terms: dict[str, Term] = {}
        logits = None
        if not batch.only_generates:
            weights = dataclasses.replace(self.settings.at(progress=1.0), soft=float(self._has_soft_targets(batch)))
            with torch.no_grad():
                terms, outputs = self._terms(model, batch, weights, evaluating=True)
                logits = outputs["logits"]
        elif not getattr(self.args, "predict_with_generate", False):
            raise ValueError(
                "A batch without labels gives the decoder nothing to read: set predict_with_generate=True to let the "
                "student write, or add labels."
            )
        note_rows_of_last_batch(self.accelerator)
        loss = None
        for name in ("soft", "hard"):
            if name not in terms:
                continue
            sums, counts = terms[name].per_example(len(batch))
            sums, counts = self.accelerator.gather_for_metrics((sums, counts))
            self._unusable.setdefault(name, []).append(sums.isnan())
            total = torch.stack([sums.double().sum(), counts.double().sum()])
            self._evaluated[name] = self._evaluated.get(name, torch.zeros_like(total)) + total
            loss = terms[name].values.sum() / max(1, len(terms[name].values))
        if prediction_loss_only:
            return loss, None, None
        if getattr(self.args, "predict_with_generate", False):
            # Without labels and what was made of them, Seq2SeqTrainer generates and computes no loss of its own.
            read = {
                name: value
                for name, value in batch.student_inputs.items()
                if name in batch.inputs and "decoder" not in name
            }
            _, generated, _ = super().prediction_step(model, read, False, ignore_keys, **kwargs)
            return loss, generated, batch.inputs.get("labels")
        return loss, None if logits is None else logits.detach(), batch.inputs.get("labels")

    def _check_evaluation(self, prefix: str) -> None:
        """Stop a training whose best model would be chosen by losses that are NaN."""
        for name, flags in self._unusable.items():
            rows = torch.cat(flags).nonzero()[:, 0].tolist()
            if rows:
                whose = "the student's or the teacher's outputs are NaN" if name == "soft" else "the student's are NaN"
                more = f" and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
                self._stop(
                    f"The evaluation after step {self.state.global_step}",
                    f"the {prefix} {name} loss is NaN for row {', '.join(map(str, rows[:NAMED_ROWS]))}{more}: {whose}",
                    f"{LOWER} A teacher in half precision may overflow: load it with dtype=torch.float32.",
                )

    def _has_soft_targets(self, batch: Batch) -> bool:
        """Whether an evaluation can compare a batch with the teacher; raises where it should and cannot."""
        unlabelled = self.task.per_position and batch.inputs.get("labels") is None
        found = self._comparable and (bool(batch.cached) or (self.teacher is not None and not unlabelled))
        if found and not self.settings.wants_soft_targets:
            return self.alignment.is_aligned(batch.inputs, self.settings.soft_target_loss)
        return found

    def settings_for_card(self) -> dict[str, Any]:
        """The settings of the objective, for the draft of the model card."""
        if not self._distils:
            return {}
        return {field.name: getattr(self.settings, field.name) for field in dataclasses.fields(Objective)}

    def teachers_for_card(self) -> list[str]:
        """The live teachers that are on the Hub, for the draft of the model card."""
        teacher = self.teacher if self._distils else None
        named = [] if teacher is None else [member.config._name_or_path for member in teacher.members]
        return [name for name in named if name and is_hub_id(name)]
