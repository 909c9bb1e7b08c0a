"""Register LSTM students with the auto classes of transformers.

Import hooks call these functions when the auto modules of transformers are imported, before or after `hf_distill`.
`import hf_distill` alone therefore imports neither transformers nor torch.
"""

from types import ModuleType

from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig


def register_config(auto: ModuleType) -> None:
    """Register the configuration with `AutoConfig`.

    Args:
        auto: `transformers.models.auto.configuration_auto`.
    """
    auto.AutoConfig.register(LSTMStudentConfig.model_type, LSTMStudentConfig, exist_ok=True)


def register_models(auto: ModuleType) -> None:
    """Register the models with their auto classes.

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
