"""Turn any Hugging Face teacher into a small LSTM or Transformer student, with one drop-in `Trainer`."""

from hf_distill import losses, metrics
from hf_distill.arguments import DistillationArguments, Seq2SeqDistillationArguments
from hf_distill.cache import cache_teacher_outputs
from hf_distill.export import export_onnx
from hf_distill.matching import (
    AdversarialMatching,
    AttentionMatching,
    HiddenStateMatching,
    RelationMatching,
    VariationalMatching,
)
from hf_distill.recipe import Recipe
from hf_distill.report import compare
from hf_distill.run import run_recipe
from hf_distill.students import (
    LSTMStudentConfig,
    LSTMStudentForCausalLM,
    LSTMStudentForSeq2SeqLM,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    LSTMStudentModel,
    TransformerStudentConfig,
    student_from_teacher,
    student_tokenizer,
)
from hf_distill.teacher import TeacherEnsemble
from hf_distill.trainer import DistillationTrainer, Seq2SeqDistillationTrainer

__all__ = [
    "AdversarialMatching",
    "AttentionMatching",
    "DistillationArguments",
    "DistillationTrainer",
    "HiddenStateMatching",
    "LSTMStudentConfig",
    "LSTMStudentForCausalLM",
    "LSTMStudentForSeq2SeqLM",
    "LSTMStudentForSequenceClassification",
    "LSTMStudentForTokenClassification",
    "LSTMStudentModel",
    "Recipe",
    "RelationMatching",
    "Seq2SeqDistillationArguments",
    "Seq2SeqDistillationTrainer",
    "TeacherEnsemble",
    "TransformerStudentConfig",
    "VariationalMatching",
    "cache_teacher_outputs",
    "compare",
    "export_onnx",
    "losses",
    "metrics",
    "run_recipe",
    "student_from_teacher",
    "student_tokenizer",
]
__version__ = "0.1.0"
