"""Students. Importing this registers the LSTM ones with the Auto classes, and has `save_pretrained` add their code."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration_lstm import LSTMStudentConfig
from .from_teacher import student_from_teacher
from .modeling_lstm import (
    LSTMStudentForCausalLM,
    LSTMStudentForSeq2SeqLM,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    LSTMStudentModel,
)
from .transformer import TransformerStudentConfig
from .vocabulary import student_tokenizer

__all__ = [
    "LSTMStudentConfig",
    "LSTMStudentForCausalLM",
    "LSTMStudentForSeq2SeqLM",
    "LSTMStudentForSequenceClassification",
    "LSTMStudentForTokenClassification",
    "LSTMStudentModel",
    "TransformerStudentConfig",
    "student_from_teacher",
    "student_tokenizer",
]

AutoConfig.register(LSTMStudentConfig.model_type, LSTMStudentConfig, exist_ok=True)
LSTMStudentConfig.register_for_auto_class()
for auto_class, model_class in (
    (AutoModel, LSTMStudentModel),
    (AutoModelForSequenceClassification, LSTMStudentForSequenceClassification),
    (AutoModelForTokenClassification, LSTMStudentForTokenClassification),
    (AutoModelForSeq2SeqLM, LSTMStudentForSeq2SeqLM),
    (AutoModelForCausalLM, LSTMStudentForCausalLM),
):
    auto_class.register(LSTMStudentConfig, model_class, exist_ok=True)
    model_class.register_for_auto_class(auto_class.__name__)
