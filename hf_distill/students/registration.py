"""Register LSTM and static students with the auto classes of transformers.

Import hooks call these functions when the auto modules of transformers are imported, before or after `hf_distill`.
`import hf_distill` alone therefore imports neither transformers nor torch.
"""

from types import ModuleType

from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.static.configuration_static import StaticStudentConfig


def register_config(auto: ModuleType) -> None:
    """Register the configurations with `AutoConfig`.

    Args:
        auto: `transformers.models.auto.configuration_auto`.
    """
    for config in (LSTMStudentConfig, StaticStudentConfig):
        auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models(auto: ModuleType) -> None:
    """Register the models with their auto classes.

    Args:
        auto: `transformers.models.auto.modeling_auto`.
    """
    from hf_distill.students.lstm import modeling_lstm
    from hf_distill.students.static import modeling_static

    for model in (
        modeling_lstm.LSTMStudentModel,
        modeling_lstm.LSTMStudentForSequenceClassification,
        modeling_lstm.LSTMStudentForTokenClassification,
        modeling_lstm.LSTMStudentForSeq2SeqLM,
        modeling_lstm.LSTMStudentForCausalLM,
        modeling_static.StaticStudentModel,
        modeling_static.StaticStudentForSequenceClassification,
        modeling_static.StaticStudentForTokenClassification,
    ):
        getattr(auto, model._auto_class).register(model.config_class, model, exist_ok=True)
