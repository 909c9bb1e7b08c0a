"""What a recipe asks for, as plain data: its sections, and what follows from them."""

import dataclasses
import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_distill.checked import LIMITS, POSITIVE, SEED, Limits, check_values, limited, nearest
from hf_distill.data.config import Data
from hf_distill.evaluation.deferral import Target
from hf_distill.matching import MATCHINGS
from hf_distill.matching.base import Matching
from hf_distill.problems import TASKS
from hf_distill.tasks.prompt_settings import AGREEMENT, Price, Prompt, Server
from hf_distill.training.arguments import Objective
from hf_distill.training.checks import LOGGED

# Numbers of `distill` and `teacher.fine_tune`, whose classes are those of transformers.
COUNT, WEIGHT, SHARE = Limits(0), Limits(0.0), Limits(0.0, 1.0)
INSIDE = Limits(0.0, 1.0, above=True, below=True)
TRAINING_LIMITS = {
    "num_train_epochs": Limits(0.0, 1e6, above=True),
    "max_steps": Limits(1, 10**9, also=-1),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), Limits(0.0, 1e9, above=True)),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), Limits(1, 10**6)),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps"), Limits(1, 10**6)),
    **dict.fromkeys(("save_total_limit", "dataloader_prefetch_factor", "torch_empty_cache_steps"), POSITIVE),
    **dict.fromkeys(("generation_max_length", "generation_num_beams", "sequences", "ddp_timeout"), POSITIVE),
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "eval_delay"), WEIGHT),
    **dict.fromkeys(("seed", "data_seed"), SEED),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), Limits(0.0, 1.0, below=True)),
    "adam_epsilon": Limits(0.0, above=True),
    "neftune_noise_alpha": WEIGHT,
    "dataloader_num_workers": Limits(0, 256),
}
STUDENT_LIMITS = {
    **dict.fromkeys(("embedding_size", "hidden_size", "intermediate_size"), Limits(1, 10**6)),
    **dict.fromkeys(("num_layers", "num_hidden_layers", "num_attention_heads"), Limits(1, 10**4)),
    "layers": Limits(0, 10**4),
    **{"ngram_buckets": Limits(0, 10**9), "ngram_size": Limits(2, 100), "window": Limits(0, 1000)},
    "dropout": Limits(0.0, 1.0, below=True),
    "initializer_range": WEIGHT,
}
# What a run itself decides on, and where else it is said.
OF_THE_RUN = {
    "output_dir": "it belongs at the recipe's top level",
    **dict.fromkeys(("metric_for_best_model", "greater_is_better"), "the first of compare.metrics selects the models"),
    **dict.fromkeys(("push_to_hub", "hub_strategy", "hub_always_push"), "`hf-distill push` publishes the student"),
    **dict.fromkeys(("hub_model_id", "hub_revision", "hub_private_repo"), "`hf-distill push` publishes the student"),
    "hub_token": "a recipe is published with its student. Log in with `hf auth login`",
    **dict.fromkeys(("eval_strategy", "save_strategy", "load_best_model_at_end"), "the best checkpoint is kept"),
    **dict.fromkeys(
        ("save_only_model", "ignore_data_skip", "resume_from_checkpoint"), "killed runs go on by themselves"
    ),
    **dict.fromkeys(("prediction_loss_only", "batch_eval_metrics", "eval_do_concat_batches"), "it scores all rows"),
    **dict.fromkeys(("label_names", "remove_unused_columns", "include_for_metrics"), "it makes the columns itself"),
    **dict.fromkeys(
        ("fsdp", "fsdp_config", "deepspeed", "parallelism_config", "local_rank"), "its processes train data-parallel"
    ),
    "teacher_placement": "teacher.placement says it",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "its steps are `--only`'s"),
    "predict_with_generate": "its task says so",
}
STAGE_HINTS = {"matching": list[dict[str, Any]], "targets": str, "sequences": int | None}

# Above it most of the probability is in the tail of a top-k cache, which is one number, or of classes that were not
# returned.
GENERATIVE_TEMPERATURE = 1.0


@dataclass
class Teacher:
    """Which model teaches, and how it learns first.

    Attributes:
        model: a Hub id, a folder, or `package:name/path` inside an installed package. None: it is on a server.
        revision: commit, tag or branch of a Hub id. None: the newest.
        trust_remote_code: whether code that the model brings along may run here. Set `revision` too: the owner can
            change the code at any time.
        fine_tune: training arguments. None: the model has a head for the task already and is used as it is.
        max_length: tokens, longer texts are cut.
        label_map: where it is used as it is and has other classes: each of them to one of the data's, or to null to
            leave it out.
        cross_fit: number of further teachers, each fine-tuned without one part of the labelled rows; every row is then
            labelled by those that did not learn from it. None: the teacher labels what it learnt from.
        calibrate: whether to divide its logits by the temperature at which they fit the validation labels best.
        floor: the first metric that its test result should reach; below it the report says that the teacher is too weak
            for its ratios to mean much.
        bf16: whether it computes in bfloat16 where the hardware is fast at it.
        lora: where a model that writes is fine-tuned by low-rank adapters, which are merged at its end: fields of
            `peft.LoraConfig`. None: all of its weights are.
        generation: options of `generate` for the texts that it writes to learn from, `num_beams` for instance.
        ledger: file that keeps what it writes, or its answers to a prompt, for other recipes with the same teacher to
            read. None: one of the run's own.
        placement: where the weights are of a teacher that is used as it is: "replicate" on every process, "shard" a
            part on each, "offload" in the machine's memory, "auto" what fits. What it teaches stays the same.
        top_k: of a model that writes, how many of its most likely tokens are kept at a position, with the mass of all
            others. None: all.
        prompt: makes a classifier's teacher of a language model, see `Prompt`.
        server: where that model is, if it is not here, see `Server`.
        budget: how many distinct texts it is asked about at most, those held out among them; the training texts are
            drawn at random. None: all.
        price: of its answers, see `Price`.
    Raises:
        ValueError: neither a model nor a server.
    """

    model: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    fine_tune: dict[str, Any] | None = None
    max_length: int = limited(POSITIVE, 128)
    label_map: dict[str, str | None] = field(default_factory=dict)
    cross_fit: int | None = limited(Limits(high=100), None)  # its task says from where on
    calibrate: bool = False
    floor: float | None = None
    bf16: bool = True
    lora: dict[str, Any] | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    ledger: str | None = None
    placement: Literal["replicate", "shard", "offload", "auto"] = "replicate"
    top_k: int | None = limited(POSITIVE, 64)
    prompt: Prompt | None = None
    server: Server | None = None
    budget: int | None = limited(POSITIVE, None)
    price: Price | None = None

    def __post_init__(self) -> None:
        if self.model is None and self.server is None:
            raise ValueError("The recipe lacks the key 'teacher.model'.")

    @property
    def source(self) -> str:
        """What `model` names; of a served model its name as that of a file, since nothing says that the Hub has it."""
        if self.server is not None:
            return f"./{self.server.model}"
        return self.model or ""


@dataclass
class Student:
    """What learns.

    Attributes:
        kind: `lstm`; `static` for embeddings of tokens and n-grams without layers, of text and token classification; or
            `transformer` for a smaller model of the teacher's own family.
        vocab_size: size of its own vocabulary, trained on the texts. None: it reads with the teacher's tokenizer.
        max_length: tokens, longer texts are cut.
        config: fields of its `LSTMStudentConfig`, `StaticStudentConfig` or `TransformerStudentConfig`.
        from_teacher: whether it starts from the teacher's weights or from random ones.
        bf16: whether it trains in bfloat16 where the hardware is fast at it.
        base: where the teacher is behind a prompt, an encoder (Hub id or folder) that the student starts from in place
            of its teacher: its tokenizer's kind and, with `from_teacher`, its weights. None: a new tokenizer and random
            weights.
        ladder: several students to choose the cheapest from that keeps `floor` of the teacher's quality: `static`,
            `lstm-64` (hidden and embedding size), `transformer-3` (layers, with the teacher's tokens), or the fields of
            a student with, if need be, a `name` and a section `distill` that differs. Fields of this section but `kind`
            and `config` hold for all. Empty: one student.
        floor: of a ladder, the least `quality_kept` on the first metric. None: 0.97.
    """

    kind: Literal["lstm", "static", "transformer"] = "lstm"
    vocab_size: int | None = limited(POSITIVE, 8000)
    max_length: int = limited(POSITIVE, 128)
    config: dict[str, Any] = field(default_factory=dict)
    from_teacher: bool = True
    bf16: bool = True
    base: str | None = None
    ladder: list[str | dict[str, Any]] = field(default_factory=list)
    floor: float | None = limited(Limits(0.0, 2.0, above=True), None)


@dataclass
class Compare:
    """What the report measures.

    Attributes:
        metrics: names of `hf_distill.metrics`; the first selects the models. None: the task's own. With
            `trust_remote_code` also the path of a metric script, or the Hub id of one.
        trust_remote_code: whether metrics that are scripts may run here.
        revision: the commit of a metric of the Hub. None: the newest.
        controls: whether to train the controls, or their names: the student on its own labels, on the teacher's hard
            labels, and models without a network. The student without a teacher is trained in any case.
        more_seeds: further seeds of the student's first weights and training: the student and its baseline are trained
            again from each, and the report's intervals cover them. The splits and the teacher stay.
        by: columns of the data to break quality down by.
        test_sets: further test sets by name, each with the fields of `data` in which it differs; its split `train` is
            read. Rows that stand in the training data are left out.
        quote: whether `report.json`, which is published with the student, quotes the test texts on which teacher and
            student differ most, beside their numbers; and whether the card's usage reads a test text.
        detailed_costs: whether latency and throughput are also measured apart by batch size and length, and of models
            that write the operations. With a slow teacher that writes this takes minutes.
        resamples: of the bootstrap.
    """

    metrics: list[str] | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    controls: bool | list[str] = True
    more_seeds: list[int] = field(default_factory=list, metadata={LIMITS: SEED})
    by: list[str] = field(default_factory=list)
    test_sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    quote: bool = False
    detailed_costs: bool = True
    resamples: int = limited(Limits(1, 1_000_000), 2000)

    @property
    def asked(self) -> list[str]:
        """The controls that are asked for by name."""
        return self.controls if isinstance(self.controls, list) else []

    def wants(self, control: str) -> bool:
        """Whether to train a control."""
        return control in self.asked or self.controls is True


@dataclass
class Export:
    """What else than torch can run the student.

    Attributes:
        onnx: whether to write `student/onnx/`; needs the extra `onnx`.
        int8: whether to write a file with 8-bit weights too.
    """

    onnx: bool = False
    int8: bool = True


@dataclass
class Cascade:
    """Which texts the student should hand to its teacher: one of `agreement` and `defer`.

    The threshold is fitted on the rows of `data.fidelity`, or without those on the validation rows, no labels needed.

    Attributes:
        agreement: 1 minus the largest probability that the student answers a text and differs from its teacher.
        defer: share of the texts that is handed over.
        confidence: with which the agreement holds.
    Raises:
        ValueError: none or both of them.
    """

    agreement: float | None = limited(INSIDE, None)
    defer: float | None = limited(INSIDE, None)
    confidence: float = limited(INSIDE, 0.95)

    def __post_init__(self) -> None:
        if (self.agreement is None) == (self.defer is None):
            raise ValueError(
                f"cascade: expected agreement (0.99, for instance) or defer (0.1), got agreement={self.agreement} and "
                f"defer={self.defer}. Set one of them."
            )

    @property
    def target(self) -> Target:
        """What a threshold is fitted for."""
        return Target(self.agreement, self.defer, self.confidence)


@dataclass
class Push:
    """What the student's card says, and where `hf-distill push` takes it.

    Attributes:
        repo_id: `user/name`. None: `hf-distill push --repo-id` says it.
        base_model: Hub id of the teacher, where `teacher.model` is a copy of it.
        license: of the student, an identifier of the Hub's list.
        language: of the texts, ISO codes.
        datasets: Hub ids of the data.
        title: what the student does, in words, for the card's title: `Tweet sentiment` for instance. None: the name of
            the data.
        samples: sentences of your own that the card shows with the answers of teacher and student; of pairs, lists of
            two texts.
    """

    repo_id: str | None = None
    base_model: str | None = None
    license: str | None = None
    language: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    title: str | None = None
    samples: list[str | list[str]] = field(default_factory=list)


@dataclass
class Settings:
    """Everything that a run depends on, and what follows from it; `hf_distill.Recipe` describes the fields."""

    task: str
    data: Data
    teacher: Teacher
    output_dir: str
    student: Student = field(default_factory=Student)
    distill: dict[str, Any] | list[dict[str, Any]] = field(default_factory=dict)
    compare: Compare = field(default_factory=Compare)
    export: Export = field(default_factory=Export)
    push: Push = field(default_factory=Push)
    cascade: Cascade | None = None
    seed: int = limited(SEED, 0)

    @property
    def writes(self) -> bool:
        """Whether the models write texts, rather than choose among classes."""
        return self.task in ("translation", "text-generation")

    @property
    def targets(self) -> str:
        """What a translation is learnt from, see `distill`."""
        return self.stages[0].get("targets", "word") if self.task == "translation" else "word"

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The stages of the distillation, one or more, each with what follows from the task and the teacher."""
        stages = self.distill if isinstance(self.distill, list) else [self.distill]
        defaults: dict[str, Any] = {}
        if self.writes or self.teacher.prompt is not None:
            defaults["temperature"] = GENERATIVE_TEMPERATURE
        if self.teacher.prompt is not None and self.data.label is None:
            defaults |= {"hard_label_weight": 0.0, "soft_target_weight": 1.0}
        return [{**defaults, **stage} for stage in stages] if defaults else stages

    @property
    def judged_by_teacher(self) -> bool:
        """Whether nothing but the teacher's answers is there to measure quality by."""
        return self.teacher.prompt is not None and self.data.label is None and self.data.labelled_test is None

    @property
    def uses_soft_targets(self) -> bool:
        """Whether any stage learns from the teacher's probabilities."""
        return self.targets != "sequence" and any(self.objective(stage).wants_soft_targets for stage in self.stages)

    @staticmethod
    def objective(stage: dict[str, Any]) -> Objective:
        """The objective of a stage.

        Raises:
            ValueError: a setting out of range.
        """
        names = {each.name for each in dataclasses.fields(Objective)}
        return Objective(**{name: value for name, value in stage.items() if name in names})

    def matchings(self, stage: dict[str, Any]) -> list[Matching]:
        """The matchings of a stage, new ones.

        Raises:
            ValueError: an unknown kind, or arguments that do not fit it.
        """
        made: list[Matching] = []
        for settings in stage.get("matching", []):
            kind, rest = settings.get("kind"), {name: value for name, value in settings.items() if name != "kind"}
            if kind not in MATCHINGS:
                raise ValueError(f"distill.matching: unknown kind {kind!r}.{nearest(str(kind), MATCHINGS)}")
            key = f"distill.matching, {kind}"
            hints = typing.get_type_hints(MATCHINGS[kind].__init__)
            known = {name: hints[name] for name in inspect.signature(MATCHINGS[kind]).parameters}
            check_values(rest, known, key, dict.fromkeys(("hidden_size", "latent_size"), Limits(1, 65_536)))
            try:
                made.append(MATCHINGS[kind](**{"layers": {}, **rest}))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
            meeting = ("word", "sequence") if TASKS[self.task].word_level else ("sequence",)
            if self.student.vocab_size is not None and made[-1].granularity not in meeting:
                raise ValueError(
                    f'distill.matching, {kind}: granularity="{made[-1].granularity}" needs one tokenizer for both, and '
                    f"the student has its own. Set granularity: {meeting[0]}, or student.vocab_size: null."
                )
        names = [each.name for each in made]
        taken = [name for name in names if not name or name in LOGGED or names.count(name) > 1]
        if taken:
            raise ValueError(f"distill.matching: {taken[0]!r} is logged as {taken[0]}_loss twice. Set another name.")
        return made

    @property
    def metrics(self) -> Sequence[str]:
        """The report's metrics, the one that selects the models first."""
        if self.judged_by_teacher:
            return (AGREEMENT,)
        if self.compare.metrics is None and self.data.problem_type == "regression":
            return ("pearson", "spearman")
        return self.compare.metrics or TASKS[self.task].metrics

    @property
    def further_data(self) -> dict[str, Data]:
        """The further test sets: the data, but for what each changes."""
        return {
            name: dataclasses.replace(self.data, minimum={}, together=None, **changes)
            for name, changes in self.compare.test_sets.items()
        }


def refuse_unused(values: Mapping[str, Any], task: str, of: str) -> None:
    """Raise a ValueError for the first setting that was given and that a task does not use.

    Args:
        values: by the key of the recipe.
        task: of the recipe.
        of: the tasks that use them, in words.
    """
    for name, value in values.items():
        if value:
            raise ValueError(f"{name}: is for {of}; leave it out of a {task} recipe.")
