"""Turn any Hugging Face teacher into a small LSTM, static or Transformer student, with one drop-in `Trainer`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from hf_distill import losses, metrics
    from hf_distill.evaluation.cascade import Cascade
    from hf_distill.export import export_onnx
    from hf_distill.matching import (
        AdversarialMatching,
        AttentionMatching,
        HiddenStateMatching,
        RelationMatching,
        VariationalMatching,
    )
    from hf_distill.recipes.recipe import Recipe
    from hf_distill.recipes.run import run_recipe
    from hf_distill.reports.classification import compare
    from hf_distill.soft_targets.cache import cache_teacher_outputs
    from hf_distill.soft_targets.prompted import cache_prompted_outputs
    from hf_distill.soft_targets.served import ServedLogits
    from hf_distill.soft_targets.spans import cache_span_outputs
    from hf_distill.students.from_teacher import student_from_teacher
    from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
    from hf_distill.students.lstm.modeling_lstm import (
        LSTMStudentForCausalLM,
        LSTMStudentForSeq2SeqLM,
        LSTMStudentForSequenceClassification,
        LSTMStudentForTokenClassification,
        LSTMStudentModel,
    )
    from hf_distill.students.static.configuration_static import StaticStudentConfig
    from hf_distill.students.static.model2vec import save_model2vec
    from hf_distill.students.static.modeling_static import (
        StaticStudentForSequenceClassification,
        StaticStudentForTokenClassification,
        StaticStudentModel,
    )
    from hf_distill.students.tokenizer import student_tokenizer
    from hf_distill.students.transformer.config import TransformerStudentConfig
    from hf_distill.teachers.ensemble import TeacherEnsemble
    from hf_distill.teachers.prompted import PromptedTeacher
    from hf_distill.teachers.served import ServedTeacher
    from hf_distill.teachers.spans import SpanTeacher
    from hf_distill.training.arguments import DistillationArguments, Seq2SeqDistillationArguments
    from hf_distill.training.seq2seq import Seq2SeqDistillationTrainer
    from hf_distill.training.trainer import DistillationTrainer

__version__ = "0.1.0"

# Each public name is imported when it is first asked for: torch and transformers take seconds.
_MODULES = {
    "Cascade": "hf_distill.evaluation.cascade",
    "export_onnx": "hf_distill.export",
    "AdversarialMatching": "hf_distill.matching",
    "AttentionMatching": "hf_distill.matching",
    "HiddenStateMatching": "hf_distill.matching",
    "RelationMatching": "hf_distill.matching",
    "VariationalMatching": "hf_distill.matching",
    "Recipe": "hf_distill.recipes.recipe",
    "run_recipe": "hf_distill.recipes.run",
    "compare": "hf_distill.reports.classification",
    "cache_teacher_outputs": "hf_distill.soft_targets.cache",
    "cache_prompted_outputs": "hf_distill.soft_targets.prompted",
    "ServedLogits": "hf_distill.soft_targets.served",
    "cache_span_outputs": "hf_distill.soft_targets.spans",
    "student_from_teacher": "hf_distill.students.from_teacher",
    "LSTMStudentConfig": "hf_distill.students.lstm.configuration_lstm",
    "LSTMStudentForCausalLM": "hf_distill.students.lstm.modeling_lstm",
    "LSTMStudentForSeq2SeqLM": "hf_distill.students.lstm.modeling_lstm",
    "LSTMStudentForSequenceClassification": "hf_distill.students.lstm.modeling_lstm",
    "LSTMStudentForTokenClassification": "hf_distill.students.lstm.modeling_lstm",
    "LSTMStudentModel": "hf_distill.students.lstm.modeling_lstm",
    "StaticStudentConfig": "hf_distill.students.static.configuration_static",
    "save_model2vec": "hf_distill.students.static.model2vec",
    "StaticStudentForSequenceClassification": "hf_distill.students.static.modeling_static",
    "StaticStudentForTokenClassification": "hf_distill.students.static.modeling_static",
    "StaticStudentModel": "hf_distill.students.static.modeling_static",
    "student_tokenizer": "hf_distill.students.tokenizer",
    "TransformerStudentConfig": "hf_distill.students.transformer.config",
    "TeacherEnsemble": "hf_distill.teachers.ensemble",
    "PromptedTeacher": "hf_distill.teachers.prompted",
    "ServedTeacher": "hf_distill.teachers.served",
    "SpanTeacher": "hf_distill.teachers.spans",
    "DistillationArguments": "hf_distill.training.arguments",
    "Seq2SeqDistillationArguments": "hf_distill.training.arguments",
    "DistillationTrainer": "hf_distill.training.trainer",
    "Seq2SeqDistillationTrainer": "hf_distill.training.seq2seq",
}
_SUBMODULES = ("losses", "metrics")
__all__ = [
    "AdversarialMatching",
    "AttentionMatching",
    "Cascade",
    "DistillationArguments",
    "DistillationTrainer",
    "HiddenStateMatching",
    "LSTMStudentConfig",
    "LSTMStudentForCausalLM",
    "LSTMStudentForSeq2SeqLM",
    "LSTMStudentForSequenceClassification",
    "LSTMStudentForTokenClassification",
    "LSTMStudentModel",
    "PromptedTeacher",
    "Recipe",
    "RelationMatching",
    "Seq2SeqDistillationArguments",
    "Seq2SeqDistillationTrainer",
    "ServedLogits",
    "ServedTeacher",
    "SpanTeacher",
    "StaticStudentConfig",
    "StaticStudentForSequenceClassification",
    "StaticStudentForTokenClassification",
    "StaticStudentModel",
    "TeacherEnsemble",
    "TransformerStudentConfig",
    "VariationalMatching",
    "cache_prompted_outputs",
    "cache_span_outputs",
    "cache_teacher_outputs",
    "compare",
    "export_onnx",
    "losses",
    "metrics",
    "run_recipe",
    "save_model2vec",
    "student_from_teacher",
    "student_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"hf_distill.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'hf_distill' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# After `import hf_distill`, AutoModel*.from_pretrained(folder) finds our students without trust_remote_code.
for _hook, _module in (("register_config", "configuration_auto"), ("register_models", "modeling_auto")):
    wrapt.register_post_import_hook(f"hf_distill.students.registration:{_hook}", f"transformers.models.auto.{_module}")
