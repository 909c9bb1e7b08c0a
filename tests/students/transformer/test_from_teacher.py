"""Smaller Transformers of the teacher's family: which of its weights they get, and what that computes."""

import re

import pytest
import torch
from transformers import AutoModel, BertTokenizer

from hf_distill.students.from_teacher import student_from_teacher
from hf_distill.students.transformer.config import TransformerStudentConfig
from tests.students.transformer.cases import TEACHERS, VOCABULARY, logits_of, make_teacher

FREE_HEADS = ("t5", "llama", "qwen2", "qwen3")


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", TEACHERS)
def test_with_everything_kept_the_student_is_the_teacher(name):
    teacher = make_teacher(name)
    student, carried = student_from_teacher(teacher, TransformerStudentConfig())
    assert type(student) is type(teacher)
    assert torch.equal(logits_of(student), logits_of(teacher))
    assert set(carried) == trainable(student)
    assert not {parameter.data_ptr() for parameter in student.parameters()} & {
        parameter.data_ptr() for parameter in teacher.parameters()
    }


@pytest.mark.parametrize("layers", ["uniform", "first", "last"])
@pytest.mark.parametrize("name", TEACHERS)
def test_a_smaller_student_runs_and_loads_without_this_package(name, layers, tmp_path):
    teacher = make_teacher(name)
    config = teacher.config
    before, names = logits_of(teacher), {key: value.clone() for key, value in teacher.state_dict().items()}
    free = config.model_type in FREE_HEADS
    shape = {"num_hidden_layers": 2, "intermediate_size": 7, "num_attention_heads": 2 if free else None}
    hidden = 2 * (config.hidden_size // config.num_attention_heads)
    student, carried = student_from_teacher(
        teacher, TransformerStudentConfig(**shape, hidden_size=hidden, layers=layers)
    )
    assert set(carried) == trainable(student)
    assert student.config.hidden_size == hidden and student.num_parameters() < 0.6 * teacher.num_parameters()
    logits = logits_of(student)
    assert logits.shape == before.shape and logits.isfinite().all()
    student.save_pretrained(tmp_path)
    assert torch.equal(logits_of(type(teacher).from_pretrained(tmp_path)), logits)
    assert AutoModel.from_pretrained(tmp_path).config.model_type == config.model_type
    assert torch.equal(logits_of(teacher), before)
    assert all(torch.equal(value, names[key]) for key, value in teacher.state_dict().items())
    assert teacher.config.hidden_size != hidden


@pytest.mark.parametrize("name", TEACHERS)
def test_layers_are_the_ones_asked_for(name):
    teacher = make_teacher(name)
    student, carried = student_from_teacher(teacher, TransformerStudentConfig(layers=[0, 2]))
    theirs, depth = teacher.state_dict(), re.compile(r"\.(layer|layers|block|h)\.1\.")
    moved = 0
    for key, value in student.state_dict().items():
        # In T5 a layer is a block, and has numbered parts, which are called layers.
        parts = key.split("block.")
        moves = depth.search(key) and (len(parts) == 1 or parts[1].startswith("1."))
        source = depth.sub(r".\1.2.", key, count=1) if moves else key
        assert torch.equal(value, theirs[source]), key
        assert carried.get(key, source) == source
        moved += bool(moves)
    assert moved


def zero_units(teacher, inner, heads):
    """Silences inner units and heads of a Llama teacher, so that nothing is lost with them."""
    size = teacher.config.head_dim
    with torch.no_grad():
        for layer in teacher.model.layers:
            layer.mlp.up_proj.weight[inner] = 0
            layer.mlp.gate_proj.weight[inner] = 0
            layer.mlp.down_proj.weight[:, inner] = 0
            for head in heads:
                layer.self_attn.q_proj.weight[head * size : (head + 1) * size] = 0
                layer.self_attn.o_proj.weight[:, head * size : (head + 1) * size] = 0
                group = head // 2
                layer.self_attn.k_proj.weight[group * size : (group + 1) * size] = 0
                layer.self_attn.v_proj.weight[group * size : (group + 1) * size] = 0


def test_units_that_do_nothing_go_first_and_change_nothing():
    teacher = make_teacher("llama")
    zero_units(teacher, inner=[1, 5, 6, 19], heads=[0, 1])
    student, carried = student_from_teacher(
        teacher, TransformerStudentConfig(intermediate_size=16, num_attention_heads=2)
    )
    assert (student.config.num_key_value_heads, student.config.head_dim) == (1, 4)
    assert torch.allclose(logits_of(student), logits_of(teacher), atol=1e-5)
    assert carried["model.layers.1.mlp.up_proj.weight"] == "model.layers.1.mlp.up_proj.weight, 16 of 20 inner units"
    assert "1 of 2 groups of heads" in carried["model.layers.1.self_attn.o_proj.weight"]


def test_the_residual_stream_keeps_the_units_with_the_largest_weights():
    """Where it is not turned: before the norms, and under a masked language head that is tied to the embeddings."""
    for name, table in (
        ("llama", "model.embed_tokens.weight"),
        ("bert masked", "bert.embeddings.word_embeddings.weight"),
    ):
        teacher = make_teacher(name)
        width = teacher.config.hidden_size
        loud = [0, 1, 2, 5, 6, 8, 10, 11] if width == 12 else [1, 2, 3, 6, 8, 10, 12, 15]
        with torch.no_grad():
            for path, parameter in teacher.named_parameters():
                if parameter.shape[-1] == width and not any(
                    part in path for part in ("query", "key", "value", "_proj")
                ):
                    parameter[..., loud] *= 5
        student, carried = student_from_teacher(teacher, TransformerStudentConfig(hidden_size=8))
        assert torch.equal(student.state_dict()[table], teacher.state_dict()[table][:, loud]), name
        assert carried[table] == f"{table}, 8 of {width} hidden units"


def test_tied_weights_stay_tied_and_untied_ones_untied():
    for name, tied in (("llama tied", True), ("llama", False), ("bart", True), ("bert masked", True)):
        student, _ = student_from_teacher(make_teacher(name), TransformerStudentConfig(num_hidden_layers=1))
        assert (student.get_input_embeddings().weight is student.get_output_embeddings().weight) == tied


def test_encoder_and_decoder_may_differ_in_depth():
    student, _ = student_from_teacher(make_teacher("bart"), TransformerStudentConfig(num_hidden_layers=(3, 1)))
    assert (student.config.encoder_layers, student.config.decoder_layers) == (3, 1)
    student, _ = student_from_teacher(make_teacher("t5"), TransformerStudentConfig(num_hidden_layers=[2, 1]))
    assert (student.config.num_layers, student.config.num_decoder_layers) == (2, 1)
    generated = student.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)
    assert generated.shape[0] == 1


def test_another_vocabulary_gets_means_of_pieces():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    teacher_tokens = tokens + ["fly", "##ing", "##s"] + [f"w{index}" for index in range(VOCABULARY - 8)]
    teacher_tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(teacher_tokens)})
    student_tokens = ["[CLS]", "[UNK]", "[PAD]", "[SEP]", "[MASK]", "flying", "fly", "w3"]
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(student_tokens)})
    teacher = make_teacher("bert masked")
    student, carried = student_from_teacher(teacher, TransformerStudentConfig(), tokenizer, teacher_tokenizer)
    table, teacher_table = student.get_input_embeddings().weight, teacher.get_input_embeddings().weight
    assert table.shape == (8, 12)
    assert torch.allclose(table[5], (teacher_table[5] + teacher_table[6]) / 2)
    assert torch.equal(table[6], teacher_table[5]) and torch.equal(table[0], teacher_table[2])
    bias, teacher_bias = student.cls.predictions.bias, teacher.cls.predictions.bias
    assert torch.allclose(bias[5], (teacher_bias[5] + teacher_bias[6]) / 2)
    assert student.get_output_embeddings().weight is table
    assert student.config.pad_token_id == 2 and student.config.vocab_size == 8
    assert "means of the pieces" in carried["bert.embeddings.word_embeddings.weight"]
    ids = torch.tensor([[0, 6, 3]])
    assert torch.allclose(
        student.eval()(ids).logits[..., 6], teacher(torch.tensor([[2, 5, 3]])).logits[..., 5], atol=1e-5
    )
    same, _ = student_from_teacher(teacher, TransformerStudentConfig(), teacher_tokenizer, teacher_tokenizer)
    assert torch.equal(logits_of(same), logits_of(teacher))
    with pytest.raises(ValueError, match="not both tokenizers"):
        student_from_teacher(teacher, TransformerStudentConfig(), tokenizer)


@pytest.mark.parametrize("name", ["bart", "marian", "t5", "gpt2", "llama", "modernbert masked"])
def test_another_vocabulary_in_every_kind_of_language_model(name):
    tokens = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    teacher_tokenizer = BertTokenizer(
        vocab={token: index for index, token in enumerate(tokens + [f"w{index}" for index in range(VOCABULARY - 5)])}
    )
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate([*tokens, "w9", "w3w4", "w5"])})
    teacher = make_teacher(name)
    student, carried = student_from_teacher(teacher, TransformerStudentConfig(), tokenizer, teacher_tokenizer)
    assert set(carried) == trainable(student) and student.config.vocab_size == 8
    inputs = {"input_ids": torch.tensor([[0, 5, 7, 2]])}
    teacher_inputs = {"input_ids": torch.tensor([[0, 14, 10, 2]])}
    if teacher.config.is_encoder_decoder:
        inputs["decoder_input_ids"], teacher_inputs["decoder_input_ids"] = (
            torch.tensor([[1, 7]]),
            torch.tensor([[1, 10]]),
        )
    with torch.no_grad():
        logits, teacher_logits = student.eval()(**inputs).logits, teacher(**teacher_inputs).logits
    assert torch.allclose(logits[..., [0, 1, 5, 7]], teacher_logits[..., [0, 1, 14, 10]], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bert", {"num_hidden_layers": 4}, "Expected at most 3 layers"),
        ("bert", {"layers": "last", "num_hidden_layers": 4}, "Expected at most 3 layers"),
        ("bert", {"layers": [0, 3]}, "Expected at most 3 layers"),
        ("bert", {"num_hidden_layers": (1, 1)}, "for 1 stack"),
        ("bert", {"hidden_size": 24}, "Expected hidden_size of at most 12"),
        ("bert", {"hidden_size": 10}, "Take a multiple of 4"),
        ("bert", {"num_attention_heads": 2}, "Take a multiple of 4"),
        ("bert", {"intermediate_size": 21}, "Expected intermediate_size of at most 20"),
        ("llama", {"num_attention_heads": 3}, "a multiple of 2, got 3"),
        ("llama", {"num_attention_heads": 8}, "Expected num_attention_heads of at most 4"),
    ],
)
def test_students_that_do_not_fit_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        student_from_teacher(make_teacher(name), TransformerStudentConfig(**settings))
