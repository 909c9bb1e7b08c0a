"""Translation: any sequence-to-sequence task, from a source text to a target text."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import datasets
import numpy as np
from transformers import DataCollatorForSeq2Seq

from hf_distill import metrics
from hf_distill.data.generation import SOURCE, TARGET
from hf_distill.data.tokenization import tokenize_pairs
from hf_distill.reports.report import Report
from hf_distill.reports.translation import compare_translation
from hf_distill.reports.writer import Writer
from hf_distill.tasks.base import Trained
from hf_distill.tasks.generation import GenerativeTask
from hf_distill.tasks.settings import Settings
from hf_distill.teachers.ask import ask
from hf_distill.teachers.generating import GeneratingTeacher
from hf_distill.training.arguments import Seq2SeqDistillationArguments
from hf_distill.training.seq2seq import Seq2SeqDistillationTrainer

NO_TARGET = "rows without a target"
TARGETS = ("word", "sequence", "both")


class Translation(GenerativeTask):
    """A student that translates."""

    trainer_class = Seq2SeqDistillationTrainer
    arguments_class = Seq2SeqDistillationArguments
    stage_keys = ("matching", "targets", "sequences")
    lora_task = "SEQ_2_SEQ_LM"
    cache_batch = 32
    fitting_metrics = ("sacrebleu", "chrf")
    other_remedy: ClassVar[str] = ", or distill.targets: sequence"

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError for what can be known to be wrong without reading any data."""
        super().check_settings(settings)
        targets = {stage.get("targets", settings.targets) for stage in settings.stages}
        if len(targets) > 1 or settings.targets not in TARGETS:
            raise ValueError(
                f"distill.targets: expected one of {', '.join(TARGETS)} for all stages, got "
                f"{', '.join(map(str, sorted(targets)))}."
            )
        if settings.targets == "word" and any("sequences" in stage for stage in settings.stages):
            raise ValueError(
                'distill.sequences: the teacher writes nothing for targets: word. Set targets to "sequence" or "both".'
            )
        numbers = [stage["sequences"] for stage in settings.stages if stage.get("sequences") is not None]
        if len(set(numbers)) > 1 or not all(isinstance(number, int) and number > 0 for number in numbers):
            raise ValueError(
                "distill.sequences: expected one number of texts, 1 or more, for all stages, got "
                f"{', '.join(map(str, numbers))}. Leave it out for all texts."
            )
        if isinstance(settings.data.text, list):
            raise ValueError(f"data.text: a translation has one text to read, got {settings.data.text}.")

    def check_export(self) -> None:
        """Raise a ValueError where the student has no ONNX export."""
        if self.settings.student.kind != "lstm":
            super().check_export()

    @property
    def selection_metric(self) -> str:
        """The recipe's first metric, of greedy translations."""
        return self.settings.metrics[0]

    @property
    def longest(self) -> int:
        """Tokens of a translation at most."""
        return min(self.student_limit, self.teacher_limit) - 1

    @property
    def longest_generation(self) -> int:
        """As long as what the student reads."""
        return self.student_limit

    def limited(self, tokenizer: Any, teacher_tokenizer: Any) -> Any:
        """With the limit of what the student reads."""
        tokenizer.model_max_length = min(self.student_limit, teacher_tokenizer.model_max_length)
        return tokenizer

    def texts(self, rows: datasets.Dataset) -> list[str]:
        """Sources and targets."""
        return [text for name in (SOURCE, TARGET) for text in rows[name] if text]

    # Rows

    def tokenized(
        self, rows: datasets.Dataset, tokenizer: Any, **teacher: Any
    ) -> tuple[datasets.Dataset, dict[str, int]]:
        """Pairs; those that do not fit are left out."""
        return tokenize_pairs(rows, tokenizer, **teacher)

    def fitting(self, rows: datasets.Dataset, what: str) -> datasets.Dataset:
        """Pairs whose sources every model has room for."""
        fits = np.ones(len(rows), dtype=bool)
        for tokenizer, limit in self.limits:
            fits &= np.array([len(ids) <= limit for ids in tokenizer(list(rows[SOURCE]), verbose=False)["input_ids"]])
        if not fits.all():
            self.count(what, {"texts longer than a model reads, left out": int((~fits).sum())})
        return rows.select(np.flatnonzero(fits))

    def distillation_rows(self) -> datasets.Dataset:
        """The teacher's translations, and the data's own targets where the teacher writes none."""
        return self.rows_of(self.pairs(), "training")

    def labelled_rows(self) -> datasets.Dataset:
        """The data's own targets."""
        what = "training" if self.settings.targets == "word" else "training without a teacher"
        return self.rows_of(self.splits.train, what)

    def pairs(self) -> datasets.Dataset:
        """Sources with the targets that the student learns from."""
        if self.settings.targets == "word":
            self.count("training", {f"{NO_TARGET}, left out: targets is word": len(self.splits.unlabelled)})
            return self.splits.train
        sources = datasets.concatenate_datasets([self.splits.unlabelled, self.splits.train])
        sources = self.fitting(sources, "training")
        wanted = max(stage.get("sequences") or 0 for stage in self.settings.stages) or len(sources)
        known = len(sources) - sum(target == "" for target in sources[TARGET])
        # First those that have no other target, then others, at random.
        unknown = len(sources) - known
        order = np.random.default_rng(self.settings.seed).permutation(known) + unknown
        chosen = np.sort(np.concatenate([np.arange(unknown), order])[:wanted])
        texts, lengths, room = self._translated(sources.select(chosen)[SOURCE][:])
        targets = list(sources[TARGET])
        for row, text, length in zip(chosen, texts, lengths, strict=True):
            targets[row] = text if length < room else ""  # half a text is no translation of the whole
        kept = [row for row, target in enumerate(targets) if target.strip()]
        self.count("training", {f"{NO_TARGET}, left out: beyond distill.sequences": max(0, unknown - wanted)})
        if not kept:
            raise ValueError(
                f"The teacher translated {len(texts)} texts, all into nothing or into more than {room} tokens, and no "
                "other target is left. Look at what it writes: is it trained, and are teacher.generation and its "
                "tokenizer right?"
            )
        self.counts |= {
            "training texts that the teacher translated": len(texts),
            "empty translations of the teacher, left out": sum(not text.strip() for text in texts),
            f"translations of the teacher cut at {room} tokens, left out": sum(length >= room for length in lengths),
        }
        return datasets.Dataset.from_dict(
            {SOURCE: [sources[SOURCE][row] for row in kept], TARGET: [targets[row] for row in kept]}
        )

    def _translated(self, sources: list[str]) -> tuple[list[str], list[int], int]:
        """The teacher's translations, their lengths in its tokens, and the longest that it may write."""
        teacher, tokenizer = self.models.teacher()
        options = {
            "num_beams": 4,
            "do_sample": False,
            "max_new_tokens": self.longest,
            **self.settings.teacher.generation,
        }
        texts = ask(
            GeneratingTeacher(teacher, tokenizer, **options),
            sources,
            ledger=self.settings.teacher.ledger or self.models.work / "written.jsonl",
        )
        ids = tokenizer(text_target=texts, add_special_tokens=False, verbose=False)["input_ids"]
        return texts, [len(each) for each in ids], options["max_new_tokens"]

    # Training

    def training_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, with greedy translations of the validation rows."""
        kept = {name: value for name, value in settings.items() if name not in ("targets", "sequences")}
        generation = {"generation_max_length": self.student_limit, "generation_num_beams": 1}
        return {**generation, **kept, "predict_with_generate": True}

    def collator(self, tokenizer: Any, model: Any) -> Any:
        """Pads sources and targets."""
        return DataCollatorForSeq2Seq(tokenizer, model)

    def validation_metrics(self, tokenizer: Any) -> Callable[[Any], dict[str, float]]:
        """The recipe's metrics on translations of the validation rows."""

        def scored(prediction: Any) -> dict[str, float]:
            pad = tokenizer.pad_token_id
            written, true = (
                tokenizer.batch_decode(np.where(ids < 0, pad, ids), skip_special_tokens=True)
                for ids in (prediction.predictions, prediction.label_ids)
            )
            values: dict[str, float] = {}
            for name in self.settings.metrics:
                values |= metrics.load(name).compute(predictions=written, references=true) or {}
            return values

        return scored

    # The end

    def compare(self, trained: Trained) -> Report:
        """Measure the translators on the test rows."""
        settings = self.settings
        models = {name: Writer(*getattr(trained, name)) for name in ("teacher", "student", "baseline")}
        return compare_translation(
            models,
            self.fitting(self.splits.test, "test"),
            metrics=settings.metrics,
            num_beams=settings.teacher.generation.get("num_beams", 4),
            max_new_tokens=self.longest,
            onnx=trained.onnx,
            more_students=[(Writer(*student), Writer(*baseline)) for student, baseline in trained.more],
            quote=settings.compare.quote,
            detailed_costs=settings.compare.detailed_costs,
            teacher_floor=settings.teacher.floor,
            validation_rows=len(self.splits.validation),
            resamples=settings.compare.resamples,
            seed=settings.seed,
        )

    @property
    def example(self) -> str:
        """A source text."""
        return str(self.splits.test[0][SOURCE]) if self.settings.compare.quote else "Some text"
