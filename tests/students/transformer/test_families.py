"""What differs from family to family: units, heads, kinds of attention, positions."""

import pytest
import torch
from transformers import BertTokenizer, ElectraConfig, ElectraForSequenceClassification

from hf_distill.students.from_teacher import student_from_teacher
from hf_distill.students.transformer.config import TransformerStudentConfig
from tests.students.transformer.cases import ENCODER, logits_of, make_teacher


@pytest.mark.parametrize("name", ["gpt2", "modernbert", "bart", "t5", "mpnet"])
def test_silent_inner_units_change_nothing_in_other_families(name):
    teacher = make_teacher(name)
    silenced = 0
    with torch.no_grad():
        for path, parameter in teacher.named_parameters():
            end = path.rpartition(".")[0].split(".")
            up = end[-1] in ("c_fc", "Wi", "fc1", "wi") or end[-2:] == ["intermediate", "dense"]
            transposed = end[-1] == "c_fc" and parameter.dim() == 2
            if up:
                rows = parameter.T if transposed else parameter
                inner = len(rows) if end[-1] != "Wi" else len(rows) // 2
                for unit in (2, 3, 11):
                    rows[unit::inner] = 0  # both halves of a fused pair
                silenced += 1
            down = (
                end[-1] in ("fc2", "wo")
                or (end[-2:] in (["mlp", "c_proj"], ["mlp", "Wo"]))
                or (end[-2:] == ["output", "dense"] and "attention" not in end)
            )
            if down and parameter.dim() == 2:
                columns = parameter.T if end[-1] == "c_proj" else parameter
                columns[:, [2, 3, 11]] = 0
    assert silenced
    inner = {"gpt2": 48}.get(name, 20)
    student, _ = student_from_teacher(teacher, TransformerStudentConfig(intermediate_size=inner - 3))
    assert torch.allclose(logits_of(student), logits_of(teacher), atol=2e-5)


@pytest.mark.parametrize("name", ["t5", "mpnet"])
def test_heads_stay_with_their_relative_positions(name):
    teacher = make_teacher(name)
    table = next(parameter for key, parameter in teacher.named_parameters() if "relative_attention_bias" in key)
    settings = {"num_attention_heads": 2} if name == "t5" else {"hidden_size": 8}
    student, _ = student_from_teacher(teacher, TransformerStudentConfig(**settings))
    key = "encoder.block.{}.layer.0.SelfAttention.q" if name == "t5" else "mpnet.encoder.layer.{}.attention.attn.q"
    kept_table = next(parameter for key, parameter in student.named_parameters() if "relative_attention_bias" in key)
    heads = [next(i for i in range(3) if torch.equal(column, table[:, i])) for column in kept_table.T]
    assert heads == sorted(set(heads))
    if name == "t5":
        for layer in range(3):
            query = teacher.get_submodule(key.format(layer)).weight.unflatten(0, (3, 4))
            kept = student.get_submodule(key.format(layer)).weight.unflatten(0, (2, 4))
            assert torch.equal(kept, query[heads])


def test_kinds_of_attention_stay_with_their_layers():
    teacher = make_teacher("modernbert")
    student, _ = student_from_teacher(teacher, TransformerStudentConfig(layers=[1, 2]))
    assert student.config.layer_types == teacher.config.layer_types[1:]


def test_positions_that_count_from_padding_need_its_id_unchanged():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w"]
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})
    teacher_tokens = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "w"]
    teacher_tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(teacher_tokens)})
    with pytest.raises(ValueError, match="padding id is the teacher's 1, got 0"):
        student_from_teacher(make_teacher("roberta"), TransformerStudentConfig(), tokenizer, teacher_tokenizer)


def test_unknown_families_are_refused():
    teacher = ElectraForSequenceClassification(ElectraConfig(**ENCODER, embedding_size=12))
    with pytest.raises(ValueError, match=r"one of the families bert, .* got 'electra'"):
        student_from_teacher(teacher, TransformerStudentConfig())
