"""A student may share frozen weights with its teacher, and none that it trains."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.teachers import WithoutAdapter
from hf_distill.teachers.live import LiveTeacher
from hf_distill.teachers.shared_weights import check_weights_are_not_shared
from tests.cases import models
from tests.conftest import collate, tiny_bert, tiny_rows

LORA = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"], "r": 4}
SHARED = r"The teacher computes with weights that the student trains: .*({}).*WithoutAdapter\(student\)"


def adapted(base):
    return get_peft_model(base, LoraConfig(**LORA))


def same_model():
    model = tiny_bert(num_labels=3)
    return model, model, "classifier|embeddings"


def base_of_adapters():
    base = tiny_bert(num_labels=3)
    return adapted(base), base, "lora_A"


def adapters_themselves():
    student = adapted(tiny_bert(num_labels=3))
    return student, student, "lora_A"


def two_adapters():
    """A second, active adapter is the teacher's too."""
    student = adapted(tiny_bert(num_labels=3))
    student.add_adapter("second", LoraConfig(**LORA))
    student.set_adapter("second")
    return student, student.get_base_model(), "second"


def one_table():
    student, teacher = tiny_bert(num_labels=3), tiny_bert(seed=1, num_labels=3)
    teacher.set_input_embeddings(student.get_input_embeddings())
    return student, teacher, "word_embeddings"


def one_storage():
    student, teacher = tiny_bert(num_labels=3), tiny_bert(seed=1, num_labels=3)
    teacher.bert.pooler.dense.weight = nn.Parameter(student.bert.pooler.dense.weight.data, requires_grad=False)
    return student, teacher, "pooler.dense.weight"


def one_decoder():
    student, teacher = (model.float() for model in models("seq2seq", ""))
    teacher.model.decoder = student.model.decoder
    return student, teacher, "decoder"


def compiled():
    model = tiny_bert(num_labels=3)
    return model, torch.compile(model, backend="eager"), "classifier|embeddings"


@pytest.mark.parametrize(
    "made",
    [same_model, base_of_adapters, adapters_themselves, two_adapters, one_table, one_storage, one_decoder, compiled],
)
def test_what_the_student_trains_is_refused(made):
    student, teacher, name = made()
    with pytest.raises(ValueError, match=SHARED.format(name)):
        check_weights_are_not_shared(student, [teacher])


def frozen_table():
    student, teacher, _ = one_table()
    student.get_input_embeddings().requires_grad_(False)
    return student, teacher


def frozen_base():
    student, teacher = tiny_bert(num_labels=3), tiny_bert(seed=1, num_labels=3)
    student.bert = teacher.bert.requires_grad_(False)
    return student, teacher


def switched_off():
    student = adapted(tiny_bert(num_labels=3))
    return student, WithoutAdapter(student)


class Own(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids, attention_mask=None):
        with self.model.disable_adapter():
            return self.model(input_ids=input_ids, attention_mask=attention_mask)


def switched_off_by_the_user():
    student = adapted(tiny_bert(num_labels=3))
    return student, Own(student)


def a_copy():
    model = tiny_bert(num_labels=3)
    return model, copy.deepcopy(model)


@pytest.mark.parametrize("made", [frozen_table, frozen_base, switched_off, switched_off_by_the_user, a_copy])
def test_what_is_not_trained_may_be_shared(tmp_path, made):
    """The soft loss is the divergence from the fixed teacher, and the teacher stays as it was."""
    student, teacher = made()
    batch = collate(tiny_rows(5).to_list())
    before = LiveTeacher(teacher, torch.device("cpu"))(batch)["logits"].clone()
    settings = DistillationArguments(
        str(tmp_path),
        max_steps=3,
        learning_rate=0.5,
        optim="sgd",
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DistillationTrainer(
        student, settings, teacher_model=teacher, train_dataset=tiny_rows(), data_collator=collate
    )
    trainer.train()
    soft = [
        next(value for name, value in entry.items() if "soft" in name)
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    assert soft[-1] > 1e-4
    assert torch.equal(LiveTeacher(teacher, torch.device("cpu"))(batch)["logits"], before)


def test_a_check_changes_nothing():
    student, teacher, _ = one_storage()
    teacher.train()
    states = [{name: value.clone() for name, value in model.state_dict().items()} for model in (student, teacher)]
    flags = [parameter.requires_grad for parameter in teacher.parameters()]
    with pytest.raises(ValueError, match="pooler"):
        check_weights_are_not_shared(student, [teacher])
    for model, state in zip((student, teacher), states, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert flags == [parameter.requires_grad for parameter in teacher.parameters()]
    assert all(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_model_without_adapters_has_none_to_switch_off():
    with pytest.raises(TypeError, match="BertForSequenceClassification has none"):
        WithoutAdapter(tiny_bert())
