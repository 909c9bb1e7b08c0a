"""`DistillationTrainer`: a `transformers.Trainer` that also listens to a teacher."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Seq2SeqTrainer
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, has_length
from transformers.utils import logging

from hf_distill import columns
from hf_distill.matching.base import Matching
from hf_distill.models import decoder_inputs, forward_arguments, problem_type, tokens_of_one_tokenizer
from hf_distill.packed_rows import PackedRowsCheck
from hf_distill.paths import is_hub_id
from hf_distill.problems import Task, any_tensor, batch_size, task_of
from hf_distill.soft_targets.vocabulary import of_shared_tokens
from hf_distill.teachers.agreement import (
    adopt_class_names,
    adopt_problem_type,
    check_class_names,
    check_members,
    check_rows_fit,
    class_names,
    tokens_shared_with,
)
from hf_distill.teachers.ensemble import TeacherEnsemble
from hf_distill.teachers.live import LiveTeacher, load_teacher
from hf_distill.teachers.shared_weights import check_weights_are_not_shared
from hf_distill.training.arguments import Objective, Weights
from hf_distill.training.attached_matchings import NAME, AttachedMatchings, check_cached_states
from hf_distill.training.checks import OF_VOCABULARIES, TWO_READINGS, WORD_LEVEL
from hf_distill.training.collator import TeacherColumnsCollator
from hf_distill.training.objective import Term, hard_term, soft_term
from hf_distill.training.publishing import PublishingTrainer
from hf_distill.training.sampler import LabelledFractionSampler, labelled_rows
from hf_distill.training.streams import counted, note_rows_of_last_batch, read_in_processes

logger = logging.get_logger(__name__)


class DistillationTrainer(PublishingTrainer):
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
        teacher_model: a model, a `TeacherEnsemble`, or a Hub id or folder. It is run without gradients, in evaluation
            mode, and neither changed nor saved. Cached columns in the data set are used instead of it where they are
            there.
        teacher_processing_class: the teacher's tokenizer, where the rows carry `teacher_input_ids` beside `input_ids`.
            Language models then need `teacher_labels` too, and `soft_target_loss="universal_logit_distance"`: the k-th
            target of a row meets the teacher's k-th, and how many meet none is said after a training.
        matching: modules of `hf_distill.matching`, which compare inner states of both models with their own weights.
        trainer_kwargs: `Trainer`'s own arguments, with `Trainer`'s own meaning.
    Raises:
        ValueError: soft targets are wanted and there is no teacher; student and teacher have other classes, or read
            other tokens and the rows do not say which of them meet; the model's auxiliary loss or a
            `compute_loss_func` would have to be mixed in.
    Source:
        Hinton et al. 2015, arXiv:1503.02531.
    """

    # Read on in the order of a step: construction, columns, count, compute, log; then evaluation.

    model: Any  # of what Trainer declares as maybe None, and always has

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: Any = None,
        *,
        teacher_model: PreTrainedModel | TeacherEnsemble | str | Path | None = None,
        teacher_processing_class: Any = None,
        matching: Sequence[Matching] = (),
        **trainer_kwargs: Any,
    ) -> None:
        names = columns.column_names([trainer_kwargs.get("train_dataset"), trainer_kwargs.get("eval_dataset")])
        cached = any(columns.is_output(name) for name in names)
        self._distils = isinstance(args, Objective) or teacher_model is not None or cached or bool(matching)
        if self._distils and trainer_kwargs.get("compute_loss_func") is not None:
            raise ValueError(
                "compute_loss_func cannot be combined with distillation: it returns one number, and the parts of "
                "the objective are each averaged over their own items. Leave it out, or subclass compute_loss."
            )
        super().__init__(model, args, **trainer_kwargs)
        if not self._distils:
            return
        # Every term is divided by its count over the whole optimizer step here, so Trainer must not divide again.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = False
        self.task: Task = task_of(self.model)
        self.teacher: Any = self._load_teacher(teacher_model, teacher_processing_class)
        self._tokens = tokens_of_one_tokenizer(self.processing_class, teacher_processing_class)
        self._student_arguments = forward_arguments(self.model)
        self._check_packed_rows = PackedRowsCheck(self.model, "student")
        read_in_processes(self.accelerator, (self.train_dataset, self.eval_dataset))
        self._matching = tuple(matching)
        self._bridge: AttachedMatchings | None = None  # the matchings, while they are parts of the student
        self._totals: dict[str, Tensor] = {}
        self._steps_in_totals = 0
        self._evaluated: dict[str, Tensor] = {}
        self._unmet = torch.zeros(4, dtype=torch.long, device=self.args.device)
        self._check_settings()
        self._meet_teacher()
        pad_id = getattr(getattr(self.teacher, "model", self.model).config, "pad_token_id", None)
        self.data_collator = TeacherColumnsCollator(
            self.data_collator,
            teacher_processing_class,
            pad_id or 0,
            word_level=self.task.word_level,
            per_position=self.task.per_position,
            in_decoder=self.task.name == "translation",
        )

    @property
    def settings(self) -> Objective:
        """The settings in force: the arguments where they are distillation arguments, the defaults elsewhere."""
        return self.args if isinstance(self.args, Objective) else Objective()

    def _load_teacher(self, teacher: Any, teacher_processing_class: Any) -> LiveTeacher | None:
        self._comparable = True  # whether both speak of the same classes
        self._shared_tokens: int | None = None
        if teacher is None:
            return None
        if isinstance(teacher, str | Path):
            if is_deepspeed_zero3_enabled():
                raise ValueError(
                    f"teacher_model={str(teacher)!r} would be cut into pieces by ZeRO-3, since it would be loaded "
                    "after the training arguments were made. Load it yourself before making them, and pass the model."
                )
            teacher = load_teacher(teacher, self.task.auto_class)
        live = LiveTeacher(teacher, self.args.device)
        try:
            check_members(self.model.config, live, self.task)
        except ValueError:
            names = columns.column_names([self.train_dataset])
            if self.settings.wants_soft_targets and not any(name in names for name in columns.SOFT_TARGETS):
                raise
            self._comparable = False
        names = columns.column_names([self.train_dataset, self.eval_dataset])
        if columns.PREFIX + "input_ids" not in names:
            tokenizers = (self.processing_class, teacher_processing_class)
            self._shared_tokens = live.tokens = tokens_shared_with(self.model.config, live, *tokenizers)
        return live

    def _meet_teacher(self) -> None:
        """Check that both models and the rows agree, and let the student's config take what the others know."""
        self._complete_config()
        if self.teacher is None:
            return
        for member in self.teacher.members:
            check_weights_are_not_shared(self.model, member)
        evaluated = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        for dataset in (self.train_dataset, *evaluated.values()):
            cached = any(name in columns.SOFT_TARGETS for name in columns.column_names([dataset]))
            if self._matching or (self.settings.wants_soft_targets and not cached):
                check_rows_fit(dataset, self.teacher)

    def _complete_config(self) -> None:
        members = [] if self.teacher is None else self.teacher.members
        for dataset in (self.train_dataset, self.eval_dataset):
            names = class_names(dataset, self.task)
            if names is None:
                continue
            check_class_names(names, self.model.config, "the student")
            for member in members if self._comparable else ():
                check_class_names(names, member.config, "the teacher")
            adopt_class_names(self.model.config, names)
        if self.teacher is not None and self._comparable and self.settings.wants_soft_targets:
            adopt_problem_type(self.model.config, self.teacher, self.task)

    def _check_settings(self) -> None:
        self.settings.check()
        names = columns.column_names([self.train_dataset])
        if columns.TEMPERATURE in names and isinstance(self.train_dataset, datasets.Dataset):
            cached_at = torch.tensor(self.train_dataset.unique(columns.TEMPERATURE))
            for progress in (0.0, 1.0):
                self._check_temperature(cached_at, self.settings.at(progress))
        cached = any(columns.is_output(name) for name in names)
        if names and self.settings.wants_soft_targets and self.teacher is None and not cached:
            raise ValueError(
                "soft_target_weight is above 0 but there is no teacher: pass teacher_model=..., or a train_dataset "
                "with a teacher_logits column (cache_teacher_outputs makes it), or set soft_target_weight=0 and "
                "hard_label_weight=1 for a student without a teacher."
            )
        if (self.teacher is not None or cached) and self.settings.wants_soft_targets:
            self._check_readings(names)
        if self.teacher is None and any(name.startswith(columns.HIDDEN) for name in names):
            check_cached_states(self._matching, names)
        elif self._matching and (self.teacher is None or len(self.teacher.members) > 1):
            raise ValueError(
                "matching compares the student's inner states with one live teacher's, and there is "
                f"{'none' if self.teacher is None else 'an ensemble'}. Pass teacher_model=... with one model."
            )
        twice = {name for name, number in Counter(each.name for each in self._matching).items() if number > 1}
        if twice:
            raise ValueError(f"Two matchings are called {', '.join(sorted(twice))}: give each its own name=... to log.")
        config = self.model.config
        if getattr(config, "output_router_logits", False):
            raise ValueError(
                f"{type(self.model).__name__} adds an auxiliary router loss (output_router_logits=True), which has "
                "no place in the objective. Set config.output_router_logits=False."
            )

    # Columns

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self._distils:
            names = columns.column_names([self.train_dataset, self.eval_dataset])
            wanted = {name for name in names if columns.is_output(name)}
            # A streamed data set may not know its columns beforehand.
            wanted |= {*columns.SOFT_TARGETS, columns.TEMPERATURE, columns.WORD_STARTS, columns.TEACHER_WORD_STARTS}
            wanted |= {name + columns.SCALE for name in columns.SOFT_TARGETS}
            if self.task.writes:
                wanted.add(columns.TEACHER_LABELS)
            if any(name.startswith(columns.HIDDEN) for name in names):  # of the positions that the teacher read
                wanted |= {name for name in names if name.startswith(columns.PREFIX)}
            if self.teacher is not None:
                # A BERT teacher reads token_type_ids that a student drops.
                wanted |= self.teacher.arguments | {columns.PREFIX + name for name in self.teacher.arguments}
            self._signature_columns: Any
            self._signature_columns += sorted(wanted - set(self._signature_columns))

    # Rows

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        fraction = self.settings.labelled_fraction if self._distils else None
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if fraction is None:
            told = columns.column_names([dataset]) & {"label", "labels"}
            if self._distils and not self.task.per_position and told and has_length(dataset):
                self._warn_of_few_labels(float(labelled_rows(dataset).mean()))
            return super()._get_train_sampler(train_dataset)
        if self.args.train_sampling_strategy != "random":
            raise ValueError(
                f"labelled_fraction={fraction} decides on the order of the rows, and so does train_sampling_strategy="
                f"{self.args.train_sampling_strategy!r}. Leave one of them out."
            )
        self._warn_of_few_labels(fraction)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LabelledFractionSampler(labelled_rows(dataset), fraction, seed, lambda: int(self.state.epoch or 0))

    def _warn_of_few_labels(self, share: float) -> None:
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if 0 < share * rows < 4 and share < 1 and self.settings.at(0.5).hard > 0:
            logger.warning(
                f"A step of {rows} rows has {share * rows:.1f} labelled ones on average: a lone one carries the whole "
                "loss on the labels. Raise labelled_fraction, the batch size or the accumulation."
            )

    # A training step

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if not self._distils:
            return super()._get_num_items_in_batch(batch_samples, device)
        if not batch_samples:
            return None
        self._steps_in_totals += 1
        if self.task.writes and self.settings.wants_soft_targets:
            for inputs in batch_samples:
                if columns.TEACHER_LABELS in inputs:
                    self._unmet += self.task.unmet(inputs).to(device)
        return self._step_counts(batch_samples, device)

    def _step_counts(self, batches: list[Any], device: torch.device) -> Tensor:
        """How many items each term counts in some batches of all processes."""
        return self._global(torch.stack([self._counts(inputs).to(device) for inputs in batches]).sum(dim=0))

    def _counts(self, inputs: Mapping[str, Any]) -> Tensor:
        """How many items of this batch each term counts: (2 + matchings,), the labels and the soft targets first."""
        labelled = self.task.label_mask(inputs)
        none = torch.tensor(0, device=any_tensor(inputs).device)
        heard = self.task.soft_target_mask(inputs).sum() if self.settings.wants_soft_targets else none
        matched = []
        if self._bridge is not None:
            matched = self._bridge.counts(inputs, self._teacher_reads(inputs))
        return torch.stack([none if labelled is None else labelled.sum(), heard, *matched])

    def train(self, *arguments: Any, **kwargs: Any) -> Any:
        """`Trainer`'s training; the matchings are parts of the student until its end and no longer."""
        if self._distils:
            self._unmet.zero_()
        try:
            output = super().train(*arguments, **kwargs)
        finally:
            if self._distils and self._bridge is not None:
                self._bridge.detach(self.model)
                self._bridge = None
        if self._distils:
            self._warn_of_unmet()
        return output

    def _warn_of_unmet(self) -> None:
        """Say once a training how many targets of two vocabularies met none of the other side."""
        beyond, own, teacher_beyond, theirs = self._global(self._unmet).tolist()
        if beyond + teacher_beyond > 0 and self.is_world_process_zero():
            logger.warning(
                f"{beyond / max(1, own):.1%} of the student's targets lay beyond the end of the teacher's and heard no "
                f"teacher, and {teacher_beyond / max(1, theirs):.1%} of the teacher's beyond the end of the student's "
                "and were not heard: universal_logit_distance compares up to the end of the shorter sequence."
            )

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Put the matchings into the student, before it is wrapped and before its optimizer is made."""
        if self._distils:
            self._complete_config()  # of a student that `model_init` made anew, too
        if self._distils and self._matching:
            if self._bridge is None:
                self._attach_bridge()
            if resume_from_checkpoint is not None and self._bridge is not None:
                self._bridge.load(resume_from_checkpoint)
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _attach_bridge(self) -> None:
        dataset: Any = self.train_dataset
        rows = list(itertools.islice(iter(dataset), 2))
        collate = self._get_collator_with_removed_columns(self.data_collator)
        inputs = self._prepare_inputs(collate(rows))
        built = AttachedMatchings(self._matching, self.task)
        # Drawn by the seed alone, whatever was drawn before; and nothing drawn after is moved by them.
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed)
            built.build(self.model, self.teacher, inputs, self._student_inputs(inputs))
        built.attach(self.model)
        self._bridge = built

    def create_optimizer(self, *arguments: Any, **kwargs: Any) -> Any:
        """`Trainer`'s optimizer; a matching with its own learning rate gets a parameter group of its own."""
        optimizer = super().create_optimizer(*arguments, **kwargs)
        if self._distils and self._bridge is not None:
            self._bridge.regroup(optimizer)
        return optimizer

    def _global(self, value: Tensor) -> Tensor:
        """The sum over the processes, each batch counted once."""
        return self.accelerator.reduce(value, reduction="sum") / self.get_tp_size()

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
            return_outputs: whether to return the logits too.
            num_items_in_batch: (2 + matchings,), what `_counts` says of the whole step; None: this batch alone.
        Returns:
            The loss, or the loss and `{"logits": ...}`.
        """
        if not self._distils:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        weights = self.settings.at(self._progress)
        counts = self._step_counts([inputs], self.args.device) if num_items_in_batch is None else num_items_in_batch
        terms, logits = self._terms(model, inputs, weights)
        replicas = self.accelerator.num_processes // self.get_tp_size()
        loss = torch.zeros((), device=logits.device)
        for (name, weight), count in zip(self._weighted(weights), counts, strict=True):
            if name in terms:
                mean = terms[name].values.sum() / count.clamp(min=1)
                self._add_to_log(f"loss_{name}", mean)
                for extra, values in terms[name].logged.items():
                    self._add_to_log(f"{name}_{extra}", values.sum() / count.clamp(min=1))
                loss = loss + weight * replicas * mean if weight else loss
        if not loss.requires_grad and torch.is_grad_enabled():
            # Nothing counts here, yet this process takes part in the step: gradients of zero, whatever the logits are.
            loss = logits.nan_to_num(0.0, 0.0, 0.0).sum() * 0.0
        return (loss, {"logits": logits}) if return_outputs else loss

    def _weighted(self, weights: Weights) -> list[tuple[str, float]]:
        """The name and the weight of each term, in the order of the counts."""
        matched = [] if self._bridge is None else [(each.name, each.weight) for each in self._bridge.matchings]
        return [("hard", weights.hard), ("soft", weights.soft), *matched]

    def _add_to_log(self, name: str, value: Tensor) -> None:
        self._totals[name] = self._totals.get(name, 0) + value.detach()

    @property
    def _progress(self) -> float:
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def _terms(
        self, model: nn.Module, inputs: Mapping[str, Any], weights: Weights, evaluating: bool = False
    ) -> tuple[dict[str, Term], Tensor]:
        """The terms that this batch has something to say on, and the student's logits."""
        bridge = None if evaluating else self._bridge
        problem = self._problem_type(self.task.labels(inputs))
        said = self._ask_teacher(inputs, bridge, problem) if weights.soft > 0 or bridge is not None else {}
        if columns.TEMPERATURE in inputs and (evaluating or not isinstance(self.train_dataset, datasets.Dataset)):
            self._check_temperature(inputs[columns.TEMPERATURE], weights)
        self._check_packed_rows(inputs)
        outputs = model(**self._student_inputs(inputs), **({} if bridge is None else bridge.needs))
        logits = outputs["logits"]
        terms: dict[str, Term] = {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and weights.hard > 0):
            hard = hard_term(self.task, logits, inputs, problem, self.args.label_smoothing_factor)
        if hard is not None:
            terms["hard"] = hard
        if weights.soft > 0:
            same = self._shared_tokens
            if self.task.writes and self.settings.soft_target_loss != "universal_logit_distance":
                said, same = of_shared_tokens(said, logits.shape[-1], self._tokens)
            terms["soft"] = soft_term(self.task, logits[..., :same], inputs, said, problem, self.settings, weights)
        for name, items in outputs.get(NAME, {}).items():
            terms[name] = Term(items["values"], items["rows"], items["logged"])
        return terms, logits

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """`Trainer`'s, and what the student's decoder reads: it is made of labels, which the student is not given."""
        inputs = super()._prepare_inputs(inputs)
        labels = inputs.get("labels")
        writes = self._distils and self.task.name == "translation"
        if writes and labels is not None and inputs.get("decoder_input_ids") is None:
            inputs["decoder_input_ids"] = decoder_inputs(self.model, labels)
        return inputs

    def _student_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the student reads: never the labels, since its own loss is a mean over the wrong items."""
        return {name: value for name, value in inputs.items() if name in self._student_arguments and name != "labels"}

    def _two_readings(self, names: Container[str]) -> bool:
        """Whether the teacher reads other tokens and nothing says which of them belong to the student's."""
        cached = any(name in names for name in columns.SOFT_TARGETS)
        own = columns.PREFIX + "input_ids" in names
        if not self.task.writes:
            aligned = columns.WORD_STARTS in names and columns.TEACHER_WORD_STARTS in names
            return self.task.word_level and own and not cached and not aligned
        if columns.TEACHER_LABELS in names:
            return not (own or cached) or self.settings.soft_target_loss != "universal_logit_distance"
        # Cached translations are of the positions of the target, which two encoders may share.
        return own and not (cached and self.task.name == "translation")

    def _check_readings(self, names: Container[str]) -> None:
        """Raise where soft targets would stand beside other words than they are about."""
        if self._two_readings(names):
            remedy = WORD_LEVEL if self.task.word_level else OF_VOCABULARIES
            raise ValueError(TWO_READINGS.format(self.task.name, remedy))

    def _problem_type(self, labels: Tensor | None) -> str:
        if self.task.per_position:
            return "single_label_classification"
        config = self.model.config  # not by way of unwrap_model, which looks for packages on the disk at every step
        problem = problem_type(config, labels)
        if config.problem_type is None and labels is not None:
            config.problem_type = problem  # as the models do when they see labels: the published config needs it
        return problem

    def _ask_teacher(
        self, inputs: Mapping[str, Any], bridge: AttachedMatchings | None, problem: str
    ) -> dict[str, Tensor]:
        """The soft targets: the cached columns where the batch has some, else what the live teacher says now."""
        said = {name: inputs[name] for name in columns.SOFT_TARGETS if name in inputs}
        if self.settings.wants_soft_targets:
            self._check_readings(inputs)
        if self.teacher is None and bridge is not None:
            bridge.teach(inputs, bridge.remembered(inputs), self._teacher_reads(inputs), self._progress)
        if self.teacher is not None and (not said or bridge is not None):
            with self.accelerator.autocast():
                answer = self.teacher(inputs, problem, **({} if bridge is None else bridge.needs))
            if bridge is not None:
                bridge.teach(inputs, answer, self.teacher.inputs_from(inputs), self._progress)
            said = said or {columns.LOGITS: answer["logits"].to(any_tensor(inputs).device)}
        if not said and (bridge is None or self.settings.wants_soft_targets):
            raise ValueError(
                "soft_target_weight is above 0, but this batch has no cached teacher columns and there is no teacher: "
                f"it has {sorted(inputs)}. Pass teacher_model=... or cache the teacher's outputs for this data set."
            )
        return said

    def _teacher_reads(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the teacher reads of a batch, or read when it was cached."""
        return (columns.teacher_inputs(inputs) or inputs) if self.teacher is None else self.teacher.inputs_from(inputs)

    def _check_temperature(self, cached: Tensor, weights: Weights) -> None:
        """Raise where the tail of a top-k cache is of another temperature."""
        if (
            weights.soft > 0
            and not torch.isclose(
                cached.double(), torch.tensor(weights.temperature, device=cached.device).double()
            ).all()
        ):
            raise ValueError(
                f"The top-k cache was made at temperature {cached.max().item():g}, and its tail cannot be tempered "
                f"later; the training is at {weights.temperature:g}. Set temperature={cached.max().item():g} and no "
                "temperature_end, or cache all logits (top_k=None), which can be tempered."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as `Trainer` does, with the unweighted terms beside their weighted sum `loss`."""
        if self._distils and "loss" in logs and self._steps_in_totals:
            for name, total in self._totals.items():
                logs[name] = self._global(total).item() / self._steps_in_totals
            self._totals, self._steps_in_totals = {}, 0
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        checkpoint = Path(output_dir or str(self.args.output_dir)).name.startswith(PREFIX_CHECKPOINT_DIR)
        if self._distils and self._bridge is not None and checkpoint and self.args.should_save:
            self._bridge.save(str(output_dir))

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

    # Evaluation

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """`Trainer`'s, where streams that several processes read have no row twice."""
        if not self._distils:
            return super().get_eval_dataloader(eval_dataset)
        named: Any = self.eval_dataset
        dataset = (
            named[eval_dataset] if isinstance(eval_dataset, str) else (named if eval_dataset is None else eval_dataset)
        )
        made = counted(dataset, self.accelerator, self.args.dataloader_num_workers)
        return super().get_eval_dataloader(eval_dataset if made is dataset else made)

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
        labels; `<prefix>_loss_soft` is there whenever a teacher or its columns are.
        """
        self._evaluated = {}
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        found = dict(output.metrics or {})
        losses = {
            name: (sums / counts.clamp(min=1)).item() for name, (sums, counts) in self._evaluated.items() if counts > 0
        }
        for name, key in (("soft", "loss_soft"), ("soft", "loss"), ("hard", "loss")):
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
        inputs = self._prepare_inputs(inputs)
        weights = self.settings.at(progress=1.0)
        unlabelled = self.task.per_position and inputs.get("labels") is None
        cached = any(name in inputs for name in columns.SOFT_TARGETS)
        can_listen = self._comparable and not self._two_readings(inputs)
        can_listen &= cached or (self.teacher is not None and not unlabelled)
        terms: dict[str, Term] = {}
        logits = None
        if not (unlabelled and self.task.name == "translation"):
            with torch.no_grad():
                heard = dataclasses.replace(weights, soft=float(can_listen))
                terms, logits = self._terms(model, inputs, heard, evaluating=True)
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
            sums, counts = terms[name].per_example(batch_size(inputs))
            sums, counts = self.accelerator.gather_for_metrics((sums, counts))
            total = torch.stack([sums.double().sum(), counts.double().sum()])
            self._evaluated[name] = self._evaluated.get(name, torch.zeros_like(total)) + total
            loss = terms[name].values.sum() / max(1, len(terms[name].values))
        if prediction_loss_only:
            return loss, None, None
        if getattr(self.args, "predict_with_generate", False):
            # Without labels and what was made of them, Seq2SeqTrainer generates and computes no loss of its own.
            asked = {name: value for name, value in self._student_inputs(inputs).items() if "decoder" not in name}
            _, generated, _ = super().prediction_step(model, asked, False, ignore_keys, **kwargs)
            return loss, generated, inputs.get("labels")
        return loss, None if logits is None else logits.detach(), inputs.get("labels")


class Seq2SeqDistillationTrainer(DistillationTrainer, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` whose student also learns from a teacher; see `DistillationTrainer`."""
