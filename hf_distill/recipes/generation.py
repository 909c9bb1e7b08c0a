"""A run of a recipe whose student writes: translations, or replies and other texts."""

import dataclasses
import functools
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, GenerationConfig, PreTrainedModel, set_seed

from hf_distill import columns, metrics
from hf_distill.data.generation import MESSAGES, SOURCE, TARGET, TEXT, WritingSplits, load_writing
from hf_distill.environment import has_fast_bf16, optional
from hf_distill.export.onnx import export_onnx
from hf_distill.matching.base import Matching
from hf_distill.recipes.generation_rows import GGUF, GenerationRows, first_messages
from hf_distill.recipes.overrides import nearest
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.steps import Steps
from hf_distill.recipes.training import training_arguments
from hf_distill.recipes.workspace import contents_of, hashed
from hf_distill.reports.generation import compare_generation
from hf_distill.reports.report import Report
from hf_distill.reports.translation import compare_translation
from hf_distill.reports.writer import Writer
from hf_distill.soft_targets.cache import cache_teacher_outputs
from hf_distill.students.from_teacher import student_from_teacher
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.tokenizer import student_tokenizer
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.teachers.ask import ask
from hf_distill.teachers.generating import GeneratingTeacher
from hf_distill.training.arguments import DistillationArguments, Seq2SeqDistillationArguments
from hf_distill.training.seq2seq import Seq2SeqDistillationTrainer
from hf_distill.training.trainer import DistillationTrainer

NO_TARGET = "rows without a target"
UNIVERSAL = "universal_logit_distance"
PROMPTS = 64  # first messages of test conversations that the models reply to


class WritingRun(Steps):
    """A run whose student writes texts."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.translates = recipe.task == "translation"
        self.splits: WritingSplits = load_writing(recipe.data, recipe.seed, task=recipe.task)
        teacher = functools.partial(self.tokenizer, self.teacher_path)
        self.reading = GenerationRows(recipe, self.splits, self.teacher_path, teacher, self.own_tokenizer)
        self.check()

    # Before anything expensive

    def check(self) -> None:
        """Raise a ValueError for whatever would fail later."""
        recipe = self.recipe
        for stage in recipe.stages:
            arguments = self.arguments(stage, "distill", rows=len(self.splits.train))
            if recipe.targets == "word" and not arguments.wants_soft_targets and not stage.get("matching"):
                raise ValueError(
                    "distill: soft_target_weight is 0 and there is no matching, so the student would not hear its "
                    "teacher. The student without a teacher is trained anyway, as a control."
                )
        if recipe.teacher.fine_tune is not None:
            self.arguments(recipe.teacher.fine_tune, "teacher", rows=len(self.splits.train))
            if recipe.teacher.lora is not None:
                adapter = optional("peft", "generation").LoraConfig
                check_names(recipe.teacher.lora, {each.name for each in dataclasses.fields(adapter)}, "teacher.lora")
                adapter(**recipe.teacher.lora)
        tokenizer = self.tokenizer(self.teacher_path)
        self.check_generation(tokenizer)
        if recipe.data.messages is not None and tokenizer.chat_template is None:
            raise ValueError(
                f"data.messages: the tokenizer of {recipe.teacher.model} has no chat template, so nothing says how to "
                "write a conversation down. Save it with tokenizer.chat_template = ..., or give plain texts: data.text."
            )
        if not self.translates:
            optional("sacrebleu", "generation")  # says what the replies of two models have in common
            self.reading.prompts(tokenizer)
        self.student_config(tokenizer)
        self.check_probabilities()
        if recipe.export.onnx and not (self.translates and recipe.student.kind == "lstm"):
            raise ValueError("export.onnx: of the students that write, LSTM translators are exported. Set it false.")
        self.check_export()

    def check_generation(self, tokenizer: Any) -> None:
        """Raise a ValueError where the teacher could not write as it is told to."""
        options = self.recipe.teacher.generation
        refused = {"num_return_sequences", "return_dict_in_generate", "transformers_version", "_from_model_config"}
        known = GenerationConfig().to_dict().keys() - refused
        check_names(options, {*known, "batch_size", "seed"}, "teacher.generation")
        room = min(self.reading.positions, tokenizer.model_max_length)
        if not 0 < options.get("max_new_tokens", 1) < room:
            raise ValueError(
                f"teacher.generation: max_new_tokens must be at least 1 and below the {room} tokens that the teacher "
                f"has room for; got {options['max_new_tokens']}."
            )

    def check_probabilities(self) -> None:
        """Raise a ValueError where the student could not learn from the teacher's probabilities as they are kept."""
        stages = [stage for stage in self.recipe.stages if self.uses_soft_targets]
        temperatures = {stage["temperature"] for stage in stages}
        scheduled = any(stage.get("temperature_end") is not None for stage in stages)
        if self.recipe.teacher.top_k is not None and (len(temperatures) > 1 or scheduled):
            raise ValueError(
                f"distill.temperature: the teacher's top {self.recipe.teacher.top_k} tokens are kept at one "
                "temperature, since the mass of all others cannot be tempered again. Give all stages the same, or set "
                "teacher.top_k: null."
            )
        own = self.recipe.student.vocab_size is not None
        if own and any(stage.get("soft_target_loss") != UNIVERSAL for stage in stages):
            raise ValueError(
                "student.vocab_size: with a vocabulary of its own the student's probabilities are about other tokens "
                f"than its teacher's. Set distill.soft_target_loss: {UNIVERSAL}, or vocab_size: null"
                + (", or distill.targets: sequence." if self.translates else ".")
            )

    def student_config(self, tokenizer: Any) -> LSTMStudentConfig | TransformerStudentConfig:
        """The student's config, an LSTM's with the tokens of its tokenizer."""
        settings = self.recipe.student
        if settings.kind == "transformer":
            return TransformerStudentConfig(**settings.config)
        tokens = {name: getattr(tokenizer, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        return LSTMStudentConfig(vocab_size=len(tokenizer), **{**tokens, **settings.config})

    def arguments(self, settings: Mapping[str, Any], name: str, **sizes: Any) -> DistillationArguments:
        """Training arguments of this run; see `training_arguments`."""
        settings = {key: value for key, value in settings.items() if key not in ("targets", "sequences")}
        kind: type[Any] = DistillationArguments
        metric = "loss"  # nats a target token: of one tokenizer, it falls with the bits a byte
        if self.translates:
            kind, metric = Seq2SeqDistillationArguments, self.recipe.metrics[0]
            written = {"generation_max_length": self.reading.student_limit, "generation_num_beams": 1}
            settings = {**written, **settings, "predict_with_generate": True}
        return training_arguments(
            settings,
            self.work / name,
            seed=self.recipe.seed,
            metric=metric,
            kind=kind,
            greater_is_better=self.translates,
            **sizes,
        )

    # Steps

    @property
    def results(self) -> Mapping[str, Sequence[str]]:
        """The files that a step leaves."""
        return {**super().results, "cache": ("cache/fingerprint",)}

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """A hash of all that each step's result depends on."""
        recipe, splits = self.recipe, self.splits
        taught, student = recipe.teacher, recipe.student
        parts = (splits.train, splits.unlabelled, splits.validation, splits.test)
        data = hashed(recipe.task, *(part.to_dict() for part in parts))
        lesson = (taught.fine_tune, taught.lora, taught.max_length, taught.bf16)
        learnt = hashed(contents_of(self.teacher_path), lesson, recipe.seed, data)
        read = (student.vocab_size, student.max_length, taught.max_length)
        written = hashed(learnt, taught.generation, recipe.targets, [stage.get("sequences") for stage in recipe.stages])
        heard = (taught.top_k, self.cached_temperature, self.uses_soft_targets)
        cache = hashed(written, read, heard, self.bf16)
        initialize = hashed(learnt, dataclasses.asdict(student))
        distill = hashed(cache, initialize, recipe.stages, recipe.metrics[0], has_fast_bf16())
        seeds = hashed(distill, recipe.compare.more_seeds)
        export = hashed(distill, dataclasses.asdict(recipe.export))
        report = hashed(seeds, export, recipe.compare, taught.generation, taught.floor, recipe.push)
        return {
            "teacher": learnt,
            "cache": cache,
            "initialize": initialize,
            "distill": distill,
            "controls": distill,
            "seeds": seeds,
            "export": export,
            "compare": report,
        }

    @cached_property
    def uses_soft_targets(self) -> bool:
        """Whether the student learns from the teacher's probabilities."""
        stages = (self.arguments(stage, "distill", rows=len(self.splits.train)) for stage in self.recipe.stages)
        return self.recipe.targets != "sequence" and any(stage.wants_soft_targets for stage in stages)

    @property
    def cached_temperature(self) -> float:
        """The temperature of the cache's tail; all logits are tempered in training."""
        return 1.0 if self.recipe.teacher.top_k is None else self.recipe.stages[0]["temperature"]

    def _step_teacher(self) -> None:
        """Fine-tune the teacher, or check that the given one loads."""
        if self.recipe.teacher.fine_tune is None:
            self.load(self.teacher_path)
        else:
            self.once("teacher", "teacher", self.fine_tuned)

    def fine_tuned(self) -> tuple[PreTrainedModel, Any]:
        """The teacher after it learnt from the training rows, and its tokenizer."""
        model: Any
        model, tokenizer = self.load(self.teacher_path)
        lora = self.recipe.teacher.lora
        if lora is not None:
            set_seed(self.recipe.seed)
            peft = optional("peft", "generation")
            kind = "SEQ_2_SEQ_LM" if self.translates else "CAUSAL_LM"
            model = peft.get_peft_model(model, peft.LoraConfig(**{"task_type": kind, **lora}))
        settings = {
            "learning_rate": 5e-5 if lora is None else 2e-4,
            "bf16": self.bf16,
            **(self.recipe.teacher.fine_tune or {}),
            "hard_label_weight": 1.0,
            "soft_target_weight": 0.0,
        }
        rows = self.reading.read(self.splits.train, "the teacher's training", tokenizer)
        judged = self.reading.read(self.splits.validation, "the teacher's validation", tokenizer)
        self.fit(model, tokenizer, self.arguments(settings, "teacher", rows=len(rows)), rows, judged, "teacher")
        return (model if lora is None else model.merge_and_unload()), tokenizer

    def step(self, name: str) -> None:
        """Run one step unless it is done; what became of the rows is kept for the report of a later process."""
        kept = self.read_json("counts.json", {})
        if kept.get("of") == self.fingerprints["distill"]:
            self.reading.counts = kept["counts"] | self.reading.counts
        super().step(name)
        self.write_json("counts.json", {"of": self.fingerprints["distill"], "counts": self.reading.counts})

    def _step_cache(self) -> None:
        """Let the teacher write its targets, and keep its probabilities of what the student will learn."""
        self.taught_rows()

    def _step_initialize(self) -> None:
        """Make the student's tokenizer and its first weights."""
        tokenizer = self.own_tokenizer()
        student, carried = self.untrained(tokenizer, self.recipe.seed)
        self.keep_initial(student, tokenizer, carried)

    def untrained(self, tokenizer: Any, seed: int) -> tuple[PreTrainedModel, dict[str, str]]:
        """A new student, and where its weights came from."""
        teacher, teacher_tokenizer = self.teacher()
        config = self.student_config(tokenizer)
        carried: dict[str, str] = {}
        set_seed(seed)
        if self.recipe.student.from_teacher:
            student, carried = student_from_teacher(teacher, config, tokenizer, teacher_tokenizer)
        else:
            student = self.task.auto_class.from_config(config)
        set_greedy(student, self.reading.student_limit if self.translates else None)
        stop_where(teacher, teacher_tokenizer, student, tokenizer)
        return student, carried

    def _step_controls(self) -> None:
        """Train the same student without a teacher."""
        self.train_baseline()
        self.write_json("controls.json", {})

    def _step_export(self) -> None:
        """Write the student for onnxruntime, where asked to."""
        if self.recipe.export.onnx:
            student, tokenizer = self.load(self.folder / "student")
            export_onnx(student, self.folder / "student", int8=self.recipe.export.int8, tokenizer=tokenizer)

    def _step_compare(self) -> None:
        """Measure, and write the report, the card and the recipe."""
        start = time.perf_counter()
        models = {"teacher": Writer(*self.teacher())}
        models |= {name: Writer(*self.load(self.folder / name)) for name in ("student", "baseline")}
        if not self.translates and self.recipe.teacher.fine_tune is not None:
            models["untuned_teacher"] = Writer(*self.load(self.teacher_path))
        report = self.translations(models) if self.translates else self.generation(models)
        run = self.about_the_run(start, self.reading.counts)
        if not self.translates:
            run["curves_of"] = "loss, nats a token"
        report = dataclasses.replace(report, run=run)
        self.publish_report(report, models["teacher"].model, self.reading.counts, example=self.example)

    def translations(self, models: Mapping[str, Writer]) -> Report:
        """What the translators are worth."""
        recipe = self.recipe
        return compare_translation(
            models,
            self.reading.fitting(self.splits.test, "test"),
            metrics=recipe.metrics,
            num_beams=recipe.teacher.generation.get("num_beams", 4),
            max_new_tokens=self.reading.longest,
            onnx=self.folder / "student" if recipe.export.onnx else None,
            more_students=self.more_writers(),
            quote=recipe.compare.quote,
            detailed_costs=recipe.compare.detailed_costs,
            teacher_floor=recipe.teacher.floor,
            resamples=recipe.compare.resamples,
            seed=recipe.seed,
        )

    def generation(self, models: Mapping[str, Writer]) -> Report:
        """What the language models are worth."""
        test = self.reading.same_texts(self.splits.test, "test")
        rows = {name: self.reading.read(test, "test", writer.tokenizer) for name, writer in models.items()}
        prompts = self.reading.prompts(*(writer.tokenizer for writer in models.values()))
        replying = {
            name: dataclasses.replace(writer, tokenizer=self.reading.replying(writer.tokenizer))
            for name, writer in models.items()
        }
        return compare_generation(
            replying,
            rows,
            prompts[:PROMPTS],
            more_students=self.more_writers(),
            quote=self.recipe.compare.quote,
            detailed_costs=self.recipe.compare.detailed_costs,
            teacher_floor=self.recipe.teacher.floor,
            resamples=self.recipe.compare.resamples,
            seed=self.recipe.seed,
        )

    @property
    def example(self) -> str:
        """What the card's usage reads; of the test set only where it may be quoted."""
        if not self.recipe.compare.quote:
            return "Some text"
        return str(self.splits.test[0][SOURCE] if self.translates else first_messages(self.splits.test)[0])

    def more_writers(self) -> list[tuple[Writer, Writer]]:
        """Students of other seeds with their baselines."""
        return [(Writer(*student), Writer(*baseline)) for student, baseline in self.more_students()]

    # Rows

    def rows_of(self, split: datasets.Dataset, what: str = "training") -> datasets.Dataset:
        """A split as the student and, where it learns from other tokens, the teacher read it."""
        own = self.recipe.student.vocab_size is not None and self.uses_soft_targets
        return self.reading.as_student(split, what, with_teacher=own)

    def own_tokenizer(self) -> Any:
        """The student's tokenizer: made once, then read from its folder."""
        if self.has_student:
            return self.tokenizer(self.work / "initial")
        settings = self.recipe.student
        teacher_tokenizer = self.tokenizer(self.teacher_path)
        tokenizer = teacher_tokenizer
        if settings.vocab_size is not None:
            tokenizer = student_tokenizer(teacher_tokenizer, texts_of(self.splits.train), settings.vocab_size)
        if not self.translates:  # what goes on after a reply has no limit but the model's own
            return self.reading.replying(tokenizer)
        tokenizer.model_max_length = min(self.reading.student_limit, teacher_tokenizer.model_max_length)
        return tokenizer

    @cached_property
    def pairs(self) -> datasets.Dataset:
        """What a translation student learns from: the teacher's texts, and the data's where it writes none."""
        if self.recipe.targets == "word":
            self.reading.count("training", {f"{NO_TARGET}, left out: targets is word": len(self.splits.unlabelled)})
            return self.splits.train
        sources = datasets.concatenate_datasets([self.splits.unlabelled, self.splits.train])
        sources = self.reading.fitting(sources, "training")
        wanted = max(stage.get("sequences") or 0 for stage in self.recipe.stages) or len(sources)
        known = len(sources) - sum(target == "" for target in sources[TARGET])
        # First those that have no other target, then others, at random.
        unknown = len(sources) - known
        order = np.random.default_rng(self.recipe.seed).permutation(known) + unknown
        asked = np.sort(np.concatenate([np.arange(unknown), order])[:wanted])
        teacher, tokenizer = self.teacher()
        options = {
            "num_beams": 4,
            "do_sample": False,
            "max_new_tokens": self.reading.longest,
            **self.recipe.teacher.generation,
        }
        said = ask(
            GeneratingTeacher(teacher, tokenizer, **options),
            sources.select(asked)[SOURCE][:],
            ledger=self.recipe.teacher.ledger or self.work / "written.jsonl",
        )
        # Those that its tokens did not suffice for; half a text is no translation of the whole.
        room = options["max_new_tokens"]
        lengths = [
            len(ids) for ids in tokenizer(text_target=said, add_special_tokens=False, verbose=False)["input_ids"]
        ]
        targets = list(sources[TARGET])
        for row, text, length in zip(asked, said, lengths, strict=True):
            targets[row] = text if length < room else ""
        kept = [row for row, target in enumerate(targets) if target.strip()]
        self.reading.count("training", {f"{NO_TARGET}, left out: beyond distill.sequences": max(0, unknown - wanted)})
        if not kept:
            raise ValueError(
                f"The teacher translated {len(said)} texts, all into nothing or into more than {room} tokens, and no "
                "other target is left. Look at what it writes: is it trained, and are teacher.generation and its "
                "tokenizer right?"
            )
        self.reading.counts |= {
            "training texts that the teacher translated": len(said),
            "empty translations of the teacher, left out": sum(not text.strip() for text in said),
            f"translations of the teacher cut at {room} tokens, left out": sum(length >= room for length in lengths),
        }
        return datasets.Dataset.from_dict(
            {SOURCE: [sources[SOURCE][row] for row in kept], TARGET: [targets[row] for row in kept]}
        )

    def taught_rows(self) -> datasets.Dataset:
        """What the student learns from, with what the teacher said."""
        return self.taught

    @cached_property
    def taught(self) -> datasets.Dataset:
        """The rows with the teacher's probabilities, where the student hears them; several trainings read them."""
        rows = self.rows_of(self.pairs if self.translates else self.splits.train)
        folder = self.marked("cache", "cache")
        if not self.uses_soft_targets:
            return rows
        teacher, tokenizer = self.teacher()
        return cache_teacher_outputs(
            rows,
            teacher,
            task=self.recipe.task,
            output_dir=folder,
            top_k=self.recipe.teacher.top_k,
            temperature=self.cached_temperature,
            teacher_processing_class=tokenizer,
            batch_size=32 if self.translates else 8,
            bf16=self.bf16,
        )

    # Training

    def fit(
        self,
        model: Any,
        tokenizer: Any,
        arguments: DistillationArguments,
        train: datasets.Dataset,
        judged: datasets.Dataset,
        step: str,
        matching: Sequence[Matching] = (),
    ) -> None:
        """Train a model in place."""
        kind = Seq2SeqDistillationTrainer if self.translates else DistillationTrainer
        collate = DataCollatorForSeq2Seq(tokenizer, model if self.translates else None)
        teacher, teacher_tokenizer = self.teacher() if matching else (None, None)
        trainer = kind(
            model,
            arguments,
            teacher_model=teacher,
            teacher_processing_class=teacher_tokenizer,
            matching=matching,
            train_dataset=train,
            eval_dataset=judged,
            processing_class=tokenizer,
            data_collator=collate,
            compute_metrics=self.judge(tokenizer) if self.translates else None,
        )
        self.train(trainer, step)

    def judge(self, tokenizer: Any) -> Any:
        """What scores translations of the validation rows."""

        def judged(prediction: Any) -> dict[str, float]:
            pad = tokenizer.pad_token_id
            said, true = (
                tokenizer.batch_decode(np.where(ids < 0, pad, ids), skip_special_tokens=True)
                for ids in (prediction.predictions, prediction.label_ids)
            )
            values: dict[str, float] = {}
            for name in self.recipe.metrics:
                values |= metrics.load(name).compute(predictions=said, references=true) or {}
            return values

        return judged

    def own_rows(self) -> datasets.Dataset:
        """What the student without a teacher learns from: the data's own targets."""
        return self.rows_of(
            self.splits.train, "training" if self.recipe.targets == "word" else "training without a teacher"
        )

    def train_student(
        self,
        name: str,
        student: PreTrainedModel,
        tokenizer: Any,
        rows: datasets.Dataset,
        *,
        without_teacher: bool = False,
        seed: int | None = None,
    ) -> None:
        """Train a student in place through all stages, or its baseline for as many steps."""
        judged = self.rows_of(self.splits.validation, "validation")
        judged = judged.remove_columns(columns.teacher_input_columns(judged.column_names))
        step = "controls" if without_teacher and seed is None else "distill"
        distilled = len(self.taught_rows()) if without_teacher else len(rows)
        stages = self.stages(name, len(rows), distilled, without_teacher=without_teacher, seed=seed)
        for arguments, matching in stages:
            self.fit(student, tokenizer, arguments, rows, judged, step, matching)

    # Models

    def load(self, path: str | Path) -> tuple[PreTrainedModel, Any]:
        """A model and its tokenizer, of a folder, the Hub, or one GGUF file."""
        if not str(path).endswith(GGUF):
            return without_padding(*super().load(path))
        optional("gguf", "generation")
        file = Path(path)
        model = self.task.auto_class.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        if getattr(model, "hf_quantizer", None) is not None:  # its weights are whole by now, and can be trained
            model.hf_quantizer.remove_quantization_config(model)
        return without_padding(model, self.tokenizer(path))

    def tokenizer(self, path: str | Path) -> Any:
        """The tokenizer of a folder, the Hub, or one GGUF file."""
        file = Path(path)
        if str(path).endswith(GGUF):
            return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        return AutoTokenizer.from_pretrained(path)


def check_names(options: Mapping[str, Any], known: Collection[str], key: str) -> None:
    """Raise a ValueError for the first option of a recipe's key that is not known, with the nearest that is."""
    for name in options:
        if name not in known:
            raise ValueError(f"{key}: unknown key {name!r}.{nearest(name, known)}")


def without_padding(model: PreTrainedModel, tokenizer: Any) -> tuple[PreTrainedModel, Any]:
    """A model and its tokenizer, the model without the last rows of its tables where they stand for no token.

    They fill a table up to a round number. Nobody would learn them, and a student with the same tokens has none.
    """
    tokens = max(tokenizer.get_vocab().values()) + 1
    if model.config.get_text_config().vocab_size > tokens:
        model.resize_token_embeddings(tokens)
    return model, tokenizer


def set_greedy(model: PreTrainedModel, max_length: int | None) -> None:
    """Let a model write greedily unless it is told otherwise, a translation of at most `max_length` tokens."""
    settings: Any = model.generation_config
    settings.num_beams = 1
    if max_length is not None:
        settings.max_length = max_length


def stop_where(teacher: Any, teacher_tokenizer: Any, student: Any, tokenizer: Any) -> None:
    """Let a student stop where its teacher does: the end of a turn is often not the tokenizer's end."""
    ends = teacher.generation_config.eos_token_id
    names = teacher_tokenizer.convert_ids_to_tokens(ends if isinstance(ends, list) else [] if ends is None else [ends])
    known = tokenizer.get_vocab()
    found = [known[name] for name in names if name in known]
    if found:
        student.generation_config.eos_token_id = found if len(found) > 1 else found[0]


def texts_of(rows: datasets.Dataset) -> list[str]:
    """All that is read or written in some rows, for a tokenizer to learn from."""
    if MESSAGES in rows.column_names:
        return [message["content"] for row in rows for message in row[MESSAGES]]
    return [text for name in (SOURCE, TARGET, TEXT) if name in rows.column_names for text in rows[name] if text]
