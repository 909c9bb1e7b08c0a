"""A training stops at the step where a loss, a gradient or a weight is no finite number, and keeps what came before."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_distill import columns
from hf_distill.models import evaluating, forward_arguments
from hf_distill.problems import batch_size
from hf_distill.teachers.identity import public_name
from hf_distill.teachers.live import LiveTeacher
from hf_distill.training.objective import Term
from hf_distill.training.resuming import ResumableTrainer

NAMED_ROWS = 10  # at most, in an error
LOWER = "Lower the learning rate, or set max_grad_norm; in half precision, train in bfloat16 or float32."


class FiniteTrainer(ResumableTrainer):
    """`transformers.Trainer` that stops before a step that would make the student no numbers.

    `Trainer` goes on, and logs the mean of the steps before in place of a loss of NaN.
    """

    model: Any
    teacher: Any
    _noted: dict[str, Term]  # the terms of the micro-batch in progress
    _micro_batches: list[tuple[Mapping[str, Any], Tensor, dict[str, Term]]]  # of the step in progress
    _unchecked: Tensor | None  # whether a step since the last check was not finite, where nothing else waits for it
    _kept: tuple[int, str] | None  # the step and the folder of the last checkpoint of this training

    def _init_training_state(
        self, max_steps: int, steps: int, epochs: int, resume_from_checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        place = super()._init_training_state(max_steps, steps, epochs, resume_from_checkpoint, trial)
        self._noted, self._micro_batches, self._unchecked = {}, [], None
        self._kept = None if resume_from_checkpoint is None else (self.state.global_step, str(resume_from_checkpoint))
        return place

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """`Trainer`'s; the batch is looked into again should the step turn out not to be finite."""
        self._noted = {}
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.is_in_train:
            self._micro_batches.append((inputs, loss, self._noted))
        return loss

    def _note(self, terms: Mapping[str, Term]) -> None:
        self._noted = {name: Term(term.values.detach(), term.rows) for name, term in terms.items()}

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """`Trainer`'s, which it calls before each optimizer step.

        Raises:
            ValueError: the loss or the gradients are not finite.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        batches, self._micro_batches = self._micro_batches, []
        # A number that is not finite stays so in a sum.
        total: Any = sum(loss.detach() for _, loss, _ in batches)
        # A scaler of float16 tries scales that are too high, and leaves such a step out.
        scaled = self.is_deepspeed_enabled or getattr(self.accelerator, "scaler", None) is not None
        if grad_norm is not None and not scaled:
            total = total + (grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm)
        if self.args.logging_nan_inf_filter or self.args.device.type == "cpu":  # Trainer waits for the loss there too
            if self._in_any_process(not math.isfinite(float(total))):
                self._stop(f"Step {self.state.global_step + 1}", *self._why(batches))
        else:
            unusable = ~torch.as_tensor(total).isfinite()
            self._unchecked = unusable if self._unchecked is None else self._unchecked | unusable
        return grad_norm

    def _in_any_process(self, flag: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.args.device), reduction="sum") > 0)

    def _maybe_log_save_evaluate(self, *arguments: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_save or self.control.should_evaluate:
            self._check_late()
        super()._maybe_log_save_evaluate(*arguments, **kwargs)

    def _finalize_training(self, *arguments: Any, **kwargs: Any) -> Any:
        self._check_late()
        self._check_weights()
        return super()._finalize_training(*arguments, **kwargs)

    def _check_late(self) -> None:
        flag, self._unchecked = self._unchecked, None
        if flag is not None and self._in_any_process(bool(flag)):
            when = f"A step after {self._kept[0] if self._kept else 0}, at most {self.state.global_step}"
            self._stop(when, "its loss or its gradients are not finite", LOWER, go_back=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """`Trainer`'s, of finite weights alone."""
        self._check_weights()
        super()._save_checkpoint(model, trial)
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._kept = self.state.global_step, str(folder)

    def _check_weights(self) -> None:
        name = self._unusable_weight()
        if name is not None:
            self._stop(f"After step {self.state.global_step}", f"{name} of the student is not finite", LOWER)

    def _unusable_weight(self) -> str | None:
        """The name of a parameter that is not finite; None where there is none, or where each process has a part."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return None
        named = [(name, each) for name, each in self.model.named_parameters() if each.is_floating_point()]
        finite = [each.detach().isfinite().all().to(self.args.device) for _, each in named]
        if not finite or bool(torch.stack(finite).all()):
            return None
        return next(name for (name, _), good in zip(named, finite, strict=True) if not good)

    def _stop(self, when: str, why: str, remedy: str, go_back: bool = True) -> None:
        """Keep the student as it was before the step or the evaluation in progress, and end the training.

        Args:
            when: it happened, in words.
            why: in words.
            remedy: in sentences.
            go_back: whether random states and sums have moved on since then.
        Raises:
            ValueError: always.
        """
        step = self.state.global_step
        if self._unusable_weight() is None and step > 0 and (self._kept is None or self._kept[0] != step):
            if go_back:
                self._go_back()
            self._save_checkpoint(self.model_wrapped, self._trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        if self._kept is not None:
            kept = f"The student as it was after step {self._kept[0]} is in {self._kept[1]}."
        elif step == 0:
            kept = "Nothing was learned before it."
        else:
            kept = "No checkpoint was written before it: set save_steps to a lower number."
        raise ValueError(f"{when}: {why}. The training was stopped. {kept} {remedy}")

    # Why

    def _why(self, batches: list[tuple[Mapping[str, Any], Tensor, dict[str, Term]]]) -> tuple[str, str]:
        """What is not finite in a step, in words, and what to do about it."""
        if self._unusable_weight() is not None:
            return f"{self._unusable_weight()} of the student is not finite", LOWER
        for inputs, loss, terms in batches:
            bad = {name: term.rows[~term.values.isfinite()].unique().tolist() for name, term in terms.items()}
            names = [f"{name}_loss" for name, rows in bad.items() if rows]
            if not names and bool(loss.isfinite()):
                continue
            counted = sorted({row for rows in bad.values() for row in rows}) or list(range(batch_size(inputs)))
            for source, strange, remedy in self._sources(self._prepare_inputs(dict(inputs))):
                rows = [row for row in counted if row in strange]
                if rows:
                    return f"{source} for {self._named(inputs, rows)}", remedy
            which = f"{' and '.join(names) or 'the loss'} of {self._named(inputs, counted)} is not finite"
            return f"{which}, and both models' outputs are, or one of them rules out (-inf) what the other does not", (
                "Choose a soft_target_loss that is finite there (total_variation, jensen_shannon), rule out the same "
                "classes on both sides, or scale the labels."
            )
        return "the gradients are not finite, and the loss is", LOWER

    def _sources(self, inputs: dict[str, Any]) -> Iterator[tuple[str, set[int], str]]:
        """What is not finite in a batch, in words; in which of its rows; and what to do about it."""
        for name, column in inputs.items():
            if columns.is_output(name) and isinstance(column, Tensor) and column.is_floating_point():
                of_classes = name in (columns.LOGITS, columns.TOP_K_LOGITS, columns.TAIL)
                yield (
                    f"the column {name} holds NaN or infinity",
                    _strange(column, minus_infinity_too=not of_classes),
                    "Cache the teacher's outputs again (cache_teacher_outputs, dtype='float32'), or remove these rows.",
                )
        labels = inputs.get("labels")
        if isinstance(labels, Tensor) and labels.is_floating_point():
            yield "the labels hold infinity", _strange(labels.nan_to_num(0.0, float("inf"))), "Mend these labels."
        ruled_out = False
        for member in self._live_members():
            teacher = LiveTeacher(member, self.args.device)
            with self.accelerator.autocast():
                logits = teacher(inputs)["logits"]
            ruled_out |= bool((logits == -float("inf")).any())
            yield (
                f"the teacher {public_name(teacher)} returned NaN or infinity",
                _strange(logits),
                "A teacher in half precision may overflow: load it with dtype=torch.float32, or train in bfloat16. Or "
                "remove these rows.",
            )
        read = {name: inputs[name] for name in forward_arguments(self.model) & inputs.keys() if name != "labels"}
        with evaluating(self.model), torch.no_grad(), self.accelerator.autocast():
            logits = self.model(**read)["logits"]
        yield "the student's outputs are NaN or infinity", _strange(logits), LOWER
        if self._live_members() and not ruled_out and bool(logits.isfinite().all()):
            yield (
                f"the teacher {public_name(self.teacher)} returned NaN or infinity, and other numbers when asked again",
                set(range(len(logits))),
                "Train on from the checkpoint; should it happen again, look for what makes the teacher differ.",
            )

    def _live_members(self) -> list[Any]:
        teacher = getattr(self, "teacher", None)
        # A sharded one computes only where all processes call it.
        return [] if teacher is None or teacher.is_sharded else list(teacher.members)

    def _named(self, inputs: Mapping[str, Any], rows: list[int]) -> str:
        """Some rows of a batch by their numbers in the training set, where those can be found."""
        known = row_numbers(self.train_dataset, inputs, rows)
        numbers, where = (known, "train_dataset") if known else (rows, "the batch")
        more = f" and {len(numbers) - NAMED_ROWS} more" if len(numbers) > NAMED_ROWS else ""
        return f"row {', '.join(map(str, numbers[:NAMED_ROWS]))}{more} of {where}"


def _strange(values: Tensor, minus_infinity_too: bool = False) -> set[int]:
    """The rows of (batch, ...) that hold NaN or infinity; -inf alone rules a class out."""
    strange = ~values.isfinite() if minus_infinity_too else values.isnan() | (values == float("inf"))
    return set(strange.reshape(len(values), -1).any(dim=-1).nonzero()[:, 0].tolist())


def row_numbers(dataset: Any, inputs: Mapping[str, Any], rows: list[int]) -> list[int]:
    """The numbers of the rows of a data set that have the tokens of some rows of a batch.

    Args:
        dataset: with a column `input_ids`; of any other the numbers are unknown.
        inputs: a collated batch.
        rows: of the batch.
    Returns:
        All that have the same tokens; none where they cannot be compared.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    known = isinstance(dataset, datasets.Dataset) and "input_ids" in dataset.column_names
    if not known or ids is None or mask is None or mask.shape != ids.shape:
        return []
    wanted = {tuple(ids[row][mask[row] != 0].tolist()) for row in rows}
    found, start = [], 0
    for part in dataset.with_format(None).select_columns(["input_ids"]).iter(1000):
        found += [start + index for index, row in enumerate(part["input_ids"]) if tuple(row) in wanted]
        start += len(part["input_ids"])
    return found
