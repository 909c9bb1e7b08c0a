"""Smaller Transformers of the teacher's family: which of its weights they get, and what that computes."""

import re

import pytest
import torch
from transformers import (
    AutoModel,
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForTokenClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_distill.students.from_teacher import student_from_teacher
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.students.transformer.residual_stream import random_tokens

VOCABULARY = 40
SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
ENCODER = {
    **SPECIAL,
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "num_labels": 3,
}
DECODER = ENCODER | {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
BOTH = {
    **SPECIAL,
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 16,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 3, "num_heads": 3}
T5 |= {"decoder_start_token_id": 0}
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 12, "n_layers": 3, "n_heads": 3, "hidden_dim": 20, "num_labels": 3}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 12, "n_layer": 3, "n_head": 3, "n_positions": 16, "pad_token_id": 1}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 2}
TEACHERS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**ENCODER)),
    "bert masked": lambda: BertForMaskedLM(BertConfig(**ENCODER)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**ENCODER)),
    "roberta tokens": lambda: RobertaForTokenClassification(RobertaConfig(**ENCODER)),
    "distilbert": lambda: DistilBertForTokenClassification(DistilBertConfig(**DISTILBERT)),
    "modernbert": lambda: ModernBertForSequenceClassification(ModernBertConfig(**ENCODER)),
    "modernbert masked": lambda: ModernBertForMaskedLM(ModernBertConfig(**ENCODER)),
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**ENCODER)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**BOTH)),
    "bart classification": lambda: BartForSequenceClassification(BartConfig(**BOTH)),
    "marian": lambda: MarianMTModel(MarianConfig(**BOTH)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5)),
    "t5 gated": lambda: T5ForConditionalGeneration(T5Config(**T5, feed_forward_proj="gated-gelu")),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "gpt2 classification": lambda: GPT2ForSequenceClassification(GPT2Config(**GPT2)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**DECODER)),
    "llama tied": lambda: LlamaForCausalLM(LlamaConfig(**DECODER, tie_word_embeddings=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**DECODER)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**DECODER, head_dim=6)),
}
FREE_HEADS = ("t5", "llama", "qwen2", "qwen3")


def make_teacher(name):
    """A teacher whose every weight says something, norms and biases too."""
    torch.manual_seed(0)
    teacher = TEACHERS[name]().eval()
    with torch.no_grad():
        for parameter in teacher.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.1, 0.5)
        if "final_logits_bias" in dict(teacher.named_buffers()):
            teacher.final_logits_bias.normal_()
    return teacher


def logits_of(model):
    """What a model says about two fixed rows."""
    ids = torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 2  # BART's classifier reads the end token
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder and "Sequence" not in type(model).__name__:
        inputs["decoder_input_ids"] = ids[:, :5]
    with torch.no_grad():
        return model.eval()(**inputs).logits


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


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet"])
def test_a_narrower_stream_is_turned_onto_its_principal_components(name):
    teacher = make_teacher(name)
    teacher.train()
    teacher.base_model.encoder.eval() if hasattr(teacher.base_model, "encoder") else teacher.base_model.eval()
    modes = [module.training for module in teacher.modules()]
    width = teacher.config.hidden_size
    student, carried = student_from_teacher(teacher, TransformerStudentConfig(hidden_size=8))
    assert [module.training for module in teacher.modules()] == modes
    own, whole = student.get_input_embeddings().weight, teacher.get_input_embeddings().weight
    directions = torch.linalg.lstsq(whole.double(), own.double()).solution  # whole @ directions = own
    assert torch.allclose(whole.double() @ directions, own.double(), atol=1e-5)
    assert torch.allclose(directions.T @ directions, torch.eye(8).double(), atol=1e-4)
    table = next(path for path in carried if path.endswith("word_embeddings.weight"))
    assert carried[table] == f"{table}, 8 principal components of the hidden states"

    # What the norms leave on the same random tokens lies in those directions more than in any others.
    states = []
    norms = [module for module in teacher.base_model.modules() if isinstance(module, torch.nn.LayerNorm)]
    hooks = [each.register_forward_hook(lambda *call: states.append(call[2].flatten(0, -2))) for each in norms]
    with torch.no_grad():
        teacher.eval().base_model(input_ids=random_tokens(teacher))
    for hook in hooks:
        hook.remove()
    shares = [each.double() / each.double().norm() for each in states]
    kept = sum((each @ directions).square().sum() for each in shares)
    others = torch.linalg.qr(torch.randn(20, width, 8, generator=torch.Generator().manual_seed(0)).double()).Q
    assert all(kept > sum((each @ other).square().sum() for each in shares) for other in others)

    # The units that a head pools lie behind a nonlinearity: they are chosen, not turned.
    pooled = [path for path, words in carried.items() if f"8 of {width} pooled units" in words]
    assert bool(pooled) == (name != "distilbert")  # this one tags: nothing is pooled


def test_random_tokens_are_never_padding():
    teacher = make_teacher("roberta")
    ids = random_tokens(teacher)
    assert torch.equal(ids, random_tokens(teacher))
    assert teacher.config.pad_token_id not in ids
    assert ids.max() < teacher.config.vocab_size
    assert ids.unique().numel() > 0.9 * (teacher.config.vocab_size - 1)


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


def test_kinds_of_attention_stay_with_their_layers():
    teacher = make_teacher("modernbert")
    student, _ = student_from_teacher(teacher, TransformerStudentConfig(layers=[1, 2]))
    assert student.config.layer_types == teacher.config.layer_types[1:]


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


def test_positions_that_count_from_padding_need_its_id_unchanged():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w"]
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})
    teacher_tokens = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "w"]
    teacher_tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(teacher_tokens)})
    with pytest.raises(ValueError, match="padding id is the teacher's 1, got 0"):
        student_from_teacher(make_teacher("roberta"), TransformerStudentConfig(), tokenizer, teacher_tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer"),
        ({"num_hidden_layers": (1, 2, 3)}, "num_hidden_layers must be a positive integer"),
        ({"layers": "middle"}, 'layers must be "uniform"'),
        ({"layers": [2, 1]}, "in ascending order"),
        ({"layers": []}, "in ascending order"),
        ({"layers": [0, 1], "num_hidden_layers": 3}, "layers lists 2 of the teacher's layers"),
    ],
)
def test_recipes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TransformerStudentConfig(**settings)


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


def test_unknown_families_are_refused():
    teacher = ElectraForSequenceClassification(ElectraConfig(**ENCODER, embedding_size=12))
    with pytest.raises(ValueError, match=r"one of the families bert, .* got 'electra'"):
        student_from_teacher(teacher, TransformerStudentConfig())
