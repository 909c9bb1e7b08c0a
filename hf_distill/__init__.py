"""Turn any Hugging Face teacher into a small LSTM or Transformer student, with one drop-in `Trainer`."""

from hf_distill import losses, metrics
from hf_distill.arguments import DistillationArguments, Seq2SeqDistillationArguments
from hf_distill.cache import cache_teacher_outputs
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
    "DistillationArguments",
    "DistillationTrainer",
    "LSTMStudentConfig",
    "LSTMStudentForCausalLM",
    "LSTMStudentForSeq2SeqLM",
    "LSTMStudentForSequenceClassification",
    "LSTMStudentForTokenClassification",
    "LSTMStudentModel",
    "Recipe",
    "Seq2SeqDistillationArguments",
    "Seq2SeqDistillationTrainer",
    "TeacherEnsemble",
    "TransformerStudentConfig",
    "cache_teacher_outputs",
    "compare",
    "losses",
    "metrics",
    "run_recipe",
    "student_from_teacher",
    "student_tokenizer",
]
__version__ = "0.1.0"
