"""`DistillationTrainer`: a `transformers.Trainer` whose student also learns from a teacher."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length
from transformers.utils import logging

from hf_distill import columns
from hf_distill.matching.base import Matching
from hf_distill.models import forward_arguments
from hf_distill.packed_rows import PackedRowsCheck, row_starts
from hf_distill.problems import Task, any_tensor, task_of
from hf_distill.teachers.agreement import check_members, complete_config
from hf_distill.teachers.ensemble import TeacherEnsemble
from hf_distill.teachers.live import LiveTeacher, load_teacher
from hf_distill.teachers.placement import load_sharded, settled
from hf_distill.teachers.shared_weights import check_nothing_is_shared, check_weights_are_not_shared
from hf_distill.training import checks
from hf_distill.training.arguments import Objective, Weights, check_best_metric
from hf_distill.training.attached_matchings import NAME, AttachedMatchings
from hf_distill.training.batch import Batch, LeftPaddingCheck, add_decoder_inputs
from hf_distill.training.checkpoints import last_whole_checkpoint
from hf_distill.training.collator import TeacherColumnsCollator
from hf_distill.training.evaluating import EvaluatingTrainer
from hf_distill.training.last_batch import Uncounted, without_repeated_rows
from hf_distill.training.look_ahead import first_rows
from hf_distill.training.objective import Term, hard_term, soft_term, with_loss
from hf_distill.training.sampler import LabelledFractionSampler, labelled_rows
from hf_distill.training.streams import read_in_processes
from hf_distill.training.totals import Totals

logger = logging.get_logger(__name__)


class DistillationTrainer(EvaluatingTrainer):
    """`transformers.Trainer` whose student also learns from a teacher.

    The objective of an optimizer step is `hard_label_weight * hard + soft_target_weight * soft`, each part a mean over
    its own items of the whole step: cutting the step into more micro-batches or more processes changes nothing.

    With plain `TrainingArguments`, no teacher and no cached columns this class *is* `Trainer`, step for step. Note that
    `Trainer` itself multiplies the loss and the gradients of BERT, T5, BART and others by the number of accumulation
    steps (their forward takes `**kwargs` but averages over the micro-batch): the right baseline for a distilled student
    is this class with `DistillationArguments(soft_target_weight=0, hard_label_weight=1)`.

    Args:
        model: the student, any `PreTrainedModel` with a head.
        args: `DistillationArguments`; plain `TrainingArguments` use the defaults of `Objective`.
        data_collator: and the others up to `preprocess_logits_for_metrics`: `Trainer`'s own, in its order and with its
            meaning. Parameters of matchings are added to your own optimizer; `compute_loss_func` is refused.
        teacher_model: a model, a `TeacherEnsemble`, or a Hub id or folder. It is run without gradients, in evaluation
            mode, and neither changed nor saved. Cached columns in the data set are used instead of it where they are
            there.
        teacher_processing_class: the teacher's tokenizer, where the rows carry `teacher_input_ids` beside `input_ids`.
            Language models then need `teacher_labels` too: the k-th target of a row is compared with the teacher's
            k-th, and the number of targets without a counterpart is logged after the training. Two vocabularies need
            `soft_target_loss="universal_logit_distance"`; one vocabulary (a longer prompt for the teacher, for
            instance) allows every loss.
        matching: modules of `hf_distill.matching`, which compare inner states of both models with their own weights.
    Raises:
        ValueError: soft targets are wanted and there is no teacher; student and teacher have other classes, or read
            other tokens and no column aligns them; the model's auxiliary loss or a `compute_loss_func` would have to
            be mixed in; the best model would be chosen by a metric of an old name.
    Source:
        Hinton et al. 2015, arXiv:1503.02531.
    """

    # In the order of a step: construction, columns, count, compute, log; then evaluation.

    model: Any  # Trainer declares it as maybe None, and always has one

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
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., Tensor] | None = None,
        *,
        teacher_model: PreTrainedModel | TeacherEnsemble | str | Path | None = None,
        teacher_processing_class: Any = None,
        matching: Sequence[Matching] = (),
    ) -> None:
        cached = any(columns.is_output(name) for name in columns.column_names([train_dataset, eval_dataset]))
        self._distils = isinstance(args, Objective) or teacher_model is not None or cached or bool(matching)
        if self._distils and compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func cannot be combined with distillation: it returns one number, and the parts of "
                "the objective are each averaged over their own items. Leave it out, or subclass compute_loss."
            )
        # Seq2SeqTrainer does not take this one.
        more = {} if optimizer_cls_and_kwargs is None else {"optimizer_cls_and_kwargs": optimizer_cls_and_kwargs}
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
            **more,
        )
        if not self._distils:
            return
        # Every term is divided by its count over the whole optimizer step here, so Trainer must not divide again.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = False
        self.task: Task = task_of(self.model)
        self.teacher: Any = self._load_teacher(teacher_model, teacher_processing_class)
        self._student_arguments = forward_arguments(self.model)
        self._check_packed_rows = PackedRowsCheck(self.model, "student")
        tokenizer = getattr(self.data_collator, "tokenizer", None)
        self._check_left_padding = LeftPaddingCheck(self.processing_class, tokenizer)
        read_in_processes(self.accelerator, (train_dataset, eval_dataset))
        self._matching = tuple(matching)
        self._attached: AttachedMatchings | None = None  # the matchings, while they are parts of the student
        self._built: tuple[Any, AttachedMatchings] | None = None  # a student and the matchings made for it
        self._evaluated: dict[str, Tensor] = {}
        self._step_items: Any = None  # what the step in progress counts, while a training step is made
        self._totals = Totals(self.args.device)
        self._seen_a_batch = self._count_was_dropped = False
        self._check_settings()
        self._complete_config()
        pad_id = getattr(getattr(self.teacher, "model", self.model).config, "pad_token_id", None)
        self.data_collator = TeacherColumnsCollator(
            self.data_collator,
            teacher_processing_class,
            pad_id or 0,
            word_level=self.task.word_level,
            per_position=self.task.per_position,
            in_decoder=self.task.in_decoder,
        )

    @property
    def settings(self) -> Objective:
        """The settings in force: the arguments where they are distillation arguments, the defaults elsewhere."""
        return self.args if isinstance(self.args, Objective) else Objective()

    @property
    def _named_datasets(self) -> dict[str, Any]:
        return checks.named_datasets(self.train_dataset, self.eval_dataset)

    def _load_teacher(self, teacher: Any, teacher_processing_class: Any) -> LiveTeacher | None:
        tokenizers = (self.processing_class, teacher_processing_class)
        self._comparable = True  # whether both have the same classes
        self._places = float("inf")
        self.alignment = checks.Alignment(self.task, self.model.config, (), tokenizers)
        if teacher is None:
            return None
        placement = settled(getattr(self.args, "teacher_placement", "replicate"), teacher, self.args.device)
        if isinstance(teacher, str | Path):
            options = {"device": self.args.device} if placement == "shard" else {}
            load: Any = load_sharded if placement == "shard" else load_teacher
            teacher = load(teacher, self.task.auto_class, **options)
        elif placement != "replicate":
            check_nothing_is_shared(self.model, teacher)
        teacher = LiveTeacher(teacher, self.args.device, placement, teacher_processing_class)
        try:
            check_members(self.model.config, teacher, self.task)
        except ValueError:
            names = columns.column_names([self.train_dataset])
            if self.settings.wants_soft_targets and not any(name in names for name in columns.SOFT_TARGETS):
                raise
            self._comparable = False
        if placement == "replicate":
            check_weights_are_not_shared(self.model, teacher.members)
        self.alignment = checks.Alignment(self.task, self.model.config, teacher.configs, tokenizers)
        self._places = teacher.limits[0]
        return teacher

    def _complete_config(self) -> None:
        """Let the student's config take the problem type and the names of classes that teacher and rows have."""
        teacher = self.teacher if self._comparable and self.settings.wants_soft_targets else None
        complete_config(self.model.config, teacher, self.task, self._named_datasets.values())

    def _check_settings(self) -> None:
        settings, named = self.settings, self._named_datasets
        settings.check()
        check_best_metric(self.args.metric_for_best_model)
        checks.check_cached_temperatures(named, settings)
        names = columns.column_names([self.train_dataset])
        checks.check_teacher(settings, self.teacher, names)
        if settings.wants_soft_targets and self._comparable:
            checks.check_alignment(named, self.alignment, settings.soft_target_loss)
        checks.check_matchings(self._matching, self.teacher, names)
        checks.check_router(self.model)

    # Columns

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self._distils:
            names = columns.column_names([self.train_dataset, self.eval_dataset])
            wanted = columns.read_in_training(names, self.task.writes)
            if self.teacher is not None:
                # A BERT teacher reads token_type_ids that a student drops.
                wanted |= self.teacher.arguments | {columns.PREFIX + name for name in self.teacher.arguments}
            self._signature_columns: Any
            self._signature_columns += sorted(wanted - set(self._signature_columns))

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        collator = super()._get_collator_with_removed_columns(data_collator, description)
        return collator if self._distils else checks.PlainCollator(collator)

    # Rows

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        fraction = self.settings.labelled_fraction if self._distils else None
        dataset = self.train_dataset if train_dataset is None else train_dataset
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if fraction is None:
            labels = columns.column_names([dataset]) & {"label", "labels"}
            if self._distils and not self.task.per_position and labels and has_length(dataset):
                self._warn(checks.few_labels(float(labelled_rows(dataset, False).mean()), rows, self.settings))
            return super()._get_train_sampler(train_dataset)
        if self.args.train_sampling_strategy != "random":
            raise ValueError(
                f"labelled_fraction={fraction} decides on the order of the rows, and so does train_sampling_strategy="
                f"{self.args.train_sampling_strategy!r}. Leave one of them out."
            )
        self._warn(checks.few_labels(fraction, rows, self.settings))
        return LabelledFractionSampler(labelled_rows(dataset, self.task.per_position), fraction, self._order_seed)

    def _warn(self, warning: str | None) -> None:
        if warning is not None:
            logger.warning(warning)

    def get_train_dataloader(self) -> Any:
        """`Trainer`'s; the matchings are made of the first rows, which are not lost to them."""
        if self._distils and self._matching and self._attached is None and self.train_dataset is not None:
            self._first_rows, self.train_dataset = first_rows(self.train_dataset, 2)
        return super().get_train_dataloader()

    # A training step

    def _batch(self, inputs: Mapping[str, Any]) -> Batch:
        return Batch(inputs, self.task, self.model, self._student_arguments, self.teacher)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if not self._distils:
            return super()._get_num_items_in_batch(batch_samples, device)
        if not batch_samples:
            return None
        batch_samples[-1] = without_repeated_rows(batch_samples[-1], self)
        first, self._seen_a_batch = not self._seen_a_batch, True
        if first:
            checks.check_labels(self.settings, batch_samples[0], columns.column_names([self.train_dataset]))
        self._totals.steps += 1
        if self.task.writes and self.settings.wants_soft_targets:
            for inputs in batch_samples:
                if columns.TEACHER_LABELS in inputs:
                    self._totals.unmatched = self._totals.unmatched + self.task.unmatched(inputs).to(device)
        counts = self._step_counts(batch_samples, device)
        self._warn(checks.nothing_counted(counts) if first else None)
        return counts

    def _step_counts(self, batches: list[Any], device: torch.device) -> Tensor:
        """How many items each term counts in some batches of all processes."""
        counts = [self._counts(self._batch(inputs)).to(device) for inputs in batches]
        return self._global(torch.stack(counts).sum(dim=0))

    def _counts(self, batch: Batch) -> Tensor:
        """How many items of this batch each term counts: (2 + matchings,), the labels and the soft targets first."""
        none = torch.tensor(0, device=any_tensor(batch.inputs).device)
        if isinstance(batch.inputs, Uncounted):
            return torch.stack([none] * (2 + len(self._matching if self._attached is not None else ())))
        labels = none if batch.label_mask is None else batch.label_mask.sum()
        soft_targets = batch.soft_target_mask.sum() if self.settings.wants_soft_targets else none
        matched = [] if self._attached is None else self._attached.counts(batch)
        return torch.stack([labels, soft_targets, *matched])

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **kwargs: Any) -> Any:
        """`Trainer`'s training; the matchings are parts of the student until its end and no longer.

        Args:
            resume_from_checkpoint: a folder; True: the last checkpoint of `output_dir`, except those whose files are
                missing or were cut, which are named in a warning.
            arguments: `Trainer.train`'s.
            kwargs: `Trainer.train`'s.
        """
        if resume_from_checkpoint is True:
            sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
            found = last_whole_checkpoint(str(self.args.output_dir), not self.args.save_only_model, sharded)
            resume_from_checkpoint = found or True  # without any, Trainer raises
        try:
            output = super().train(resume_from_checkpoint, *arguments, **kwargs)
        finally:
            if self._distils and self._attached is not None:
                self._attached.detach(self.model)
                self._attached = None
        if self._distils:
            warning = checks.without_counterpart(self._global(self._totals.unmatched), self.settings.soft_target_loss)
            self._warn(warning if self.is_world_process_zero() else None)
        return output

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Put the matchings into the student, before it is wrapped and before its optimizer is made."""
        if self._distils:
            self._totals.reset()
            self._seen_a_batch = self._count_was_dropped = False
            self._complete_config()  # of a student that `model_init` made anew, too
            checks.check_lengths(
                self._named_datasets, self._get_collator_with_removed_columns(self.data_collator), self._places
            )
            if self._matching and self._attached is None:
                self._attach_matchings()
            if resume_from_checkpoint is not None and self._attached is not None:
                self._attached.load(resume_from_checkpoint)
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _attach_matchings(self) -> None:
        """Make the matchings of this student, or take those of an earlier training of it: its optimizer has them."""
        if self._built is None or self._built[0] is not self.model:
            collate = self._get_collator_with_removed_columns(self.data_collator)
            inputs = self._prepare_inputs(collate(self._first_rows))
            matchings = AttachedMatchings(self._matching, self.task)
            # Drawn by the seed alone, whatever was drawn before; and nothing drawn after is moved by them.
            with torch.random.fork_rng():
                torch.manual_seed(self.args.seed)
                matchings.build(self.model, self._batch(inputs))
            self._built = (self.model, matchings)
        self._attached = self._built[1]
        self._attached.attach(self.model)

    def create_optimizer(self, *arguments: Any, **kwargs: Any) -> Any:
        """`Trainer`'s optimizer, or your own, which trains the parameters of the matchings too."""
        optimizer = super().create_optimizer(*arguments, **kwargs)
        if self._distils and self._attached is not None:
            self._attached.join(optimizer, self.lr_scheduler)
        return optimizer

    def _global(self, value: Tensor) -> Tensor:
        """The sum over the processes, each batch counted once."""
        return self.accelerator.reduce(value, reduction="sum") / self.get_tp_size()

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """`Trainer`'s; the counts of the step stay in force where an override of `compute_loss` drops them."""
        self._step_items = num_items_in_batch
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._step_items = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The objective on one micro-batch.

        Every term is its local sum, divided by its count over all micro-batches and processes of the optimizer step,
        times the number of processes, since data parallelism averages gradients.

        Args:
            model: the student, wrapped or not.
            inputs: a collated batch.
            return_outputs: whether to return the student's output too.
            num_items_in_batch: (2 + matchings,), the `_counts` of the whole step; None: of the step in progress, or of
                this batch alone outside of a training.
        Returns:
            The loss, or the loss and the student's output with this loss in it, as `Trainer` returns them.
        """
        if not self._distils:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if num_items_in_batch is None and self._step_items is not None:
            if not self._count_was_dropped:
                logger.warning(
                    "compute_loss was called without num_items_in_batch in a training step: an override drops it. The "
                    "counts of the whole step are used; pass num_items_in_batch on to super().compute_loss(...)."
                )
            self._count_was_dropped = True
            num_items_in_batch = self._step_items
        weights = self.settings.at(self._progress)
        counts = self._step_counts([inputs], self.args.device) if num_items_in_batch is None else num_items_in_batch
        terms, outputs = self._terms(model, self._batch(inputs), weights)
        self._note(terms)
        logits = outputs["logits"]
        replicas = self.accelerator.num_processes // self.get_tp_size()
        loss = torch.zeros((), device=logits.device)
        for (name, weight), count in zip(self._weighted(weights), counts, strict=True):
            if name in terms:
                mean = terms[name].values.sum() / count.clamp(min=1)
                self._totals.add(f"{name}_loss", mean)
                for extra, values in terms[name].logged.items():
                    self._totals.add(f"{name}_{extra}", values.sum() / count.clamp(min=1))
                loss = loss + weight * replicas * mean if weight else loss
        if not loss.requires_grad and torch.is_grad_enabled():
            # Nothing counts here, yet this process takes part in the step: gradients of zero, whatever the logits are.
            loss = logits.nan_to_num(0.0, 0.0, 0.0).sum() * 0.0
        return (loss, with_loss(outputs, loss)) if return_outputs else loss

    def _weighted(self, weights: Weights) -> list[tuple[str, float]]:
        """The name and the weight of each term, in the order of the counts."""
        matched = [] if self._attached is None else [(each.name, each.weight) for each in self._attached.matchings]
        return [("hard", weights.hard), ("soft", weights.soft), *matched]

    @property
    def _progress(self) -> float:
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def _terms(
        self, model: nn.Module, batch: Batch, weights: Weights, evaluating: bool = False
    ) -> tuple[dict[str, Term], Any]:
        """The terms that have items in this batch, and the student's output."""
        attached = None if evaluating else self._attached
        problem = self.task.problem_type(self.model.config, batch.labels)
        self._check_packed_rows(batch.inputs)
        with self.accelerator.autocast():
            self._check_left_padding(batch, attached is not None)
        soft_targets = self._soft_targets(batch, attached, problem) if weights.soft > 0 or attached is not None else {}
        if columns.TEMPERATURE in batch.inputs:
            checks.check_temperature(batch.inputs[columns.TEMPERATURE], weights)
        outputs = model(**batch.student_inputs, **({} if attached is None else attached.outputs_needed))
        logits = outputs["logits"]
        terms: dict[str, Term] = {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and weights.hard > 0):
            hard = hard_term(batch, logits, problem, self.args.label_smoothing_factor)
        if hard is not None:
            terms["hard"] = hard
        if weights.soft > 0:
            loss = self.settings.soft_target_loss
            soft_targets, same = self.alignment.common(soft_targets, logits.shape[-1], batch.inputs, loss)
            terms["soft"] = soft_term(batch, logits[..., :same], soft_targets, problem, self.settings, weights)
        for name, items in outputs.get(NAME, {}).items():
            terms[name] = Term(items["values"], items["rows"], items["logged"])
        return {} if isinstance(batch.inputs, Uncounted) else terms, outputs

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """`Trainer`'s, and what the student's decoder reads: it is made of labels, which the student is not given."""
        inputs = super()._prepare_inputs(inputs)
        if self._distils and self.task.in_decoder:
            inputs = add_decoder_inputs(inputs, self.model)
        return inputs

    def _soft_targets(self, batch: Batch, attached: AttachedMatchings | None, problem: str) -> dict[str, Tensor]:
        """The soft targets: the cached columns where the batch has some, else the live teacher's logits."""
        soft_targets = dict(batch.cached)
        if self.settings.wants_soft_targets:
            self.alignment.check(batch.inputs, self.settings.soft_target_loss)
        if self.teacher is None and attached is not None:
            attached.set_target(batch, attached.cached_output(batch), self._progress)
        if self.teacher is not None and (not soft_targets or attached is not None):
            if not batch.has_own_tokens:
                self.teacher.tokens = self.alignment.shared_tokens()  # raises for another vocabulary
            if row_starts(batch.teacher_inputs) is None:  # packed rows are shorter than the batch
                checks.check_length(batch.teacher_length, self._places)
            with self.accelerator.autocast():
                output = self.teacher(batch.inputs, problem, **({} if attached is None else attached.outputs_needed))
            if attached is not None:
                attached.set_target(batch, output, self._progress)
            soft_targets = soft_targets or {columns.LOGITS: output["logits"].to(any_tensor(batch.inputs).device)}
        if not soft_targets and (attached is None or self.settings.wants_soft_targets):
            raise ValueError(
                "soft_target_weight is above 0, but this batch has no cached teacher columns and there is no teacher: "
                f"it has {sorted(batch.inputs)}. Pass teacher_model=... or cache the teacher's outputs for this data "
                "set."
            )
        return soft_targets

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as `Trainer` does, with the unweighted terms beside their weighted sum `loss`."""
        if self._distils and "loss" in logs:
            logs |= self._totals.means(self._global)
        super().log(logs, start_time)

    def _progress_record(self) -> dict[str, Any]:
        totals = {"totals": self._totals.record()} if self._distils else {}
        return super()._progress_record() | totals

    def _load_progress(self, record: dict[str, Any]) -> None:
        super()._load_progress(record)
        if self._distils and "totals" in record:
            self._totals.load(record["totals"])

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        checkpoint = Path(output_dir or str(self.args.output_dir)).name.startswith(PREFIX_CHECKPOINT_DIR)
        if self._distils and self._attached is not None and checkpoint and self.args.should_save:
            self._attached.save(str(output_dir))
