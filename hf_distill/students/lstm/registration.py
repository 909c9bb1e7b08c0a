"""Lets the auto classes of transformers find LSTM students.

`hf_distill` has these functions called when transformers' own modules are imported, whichever of the two packages came
first, so that `import hf_distill` alone imports neither transformers nor torch.
"""

from types import ModuleType

from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig


def register_config(auto: ModuleType) -> None:
    """Make `AutoConfig` know the LSTM students.

    Args:
        auto: `transformers.models.auto.configuration_auto`.
    """
    auto.AutoConfig.register(LSTMStudentConfig.model_type, LSTMStudentConfig, exist_ok=True)


def register_models(auto: ModuleType) -> None:
    """Make the auto classes of models know the LSTM students.

    Args:
        auto: `transformers.models.auto.modeling_auto`.
    """
    from hf_distill.students.lstm import modeling_lstm

    for model in (
        modeling_lstm.LSTMStudentModel,
        modeling_lstm.LSTMStudentForSequenceClassification,
        modeling_lstm.LSTMStudentForTokenClassification,
        modeling_lstm.LSTMStudentForSeq2SeqLM,
        modeling_lstm.LSTMStudentForCausalLM,
    ):
        getattr(auto, model._auto_class).register(LSTMStudentConfig, model, exist_ok=True)
