"""What static students take from a teacher: its table or its layers, and the frequency of their tokens."""

import copy

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from transformers import BartConfig, BartForSequenceClassification, BertConfig, BertForMaskedLM, BertModel

from hf_distill import (
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    StaticStudentConfig,
    StaticStudentForSequenceClassification,
    StaticStudentForTokenClassification,
    StaticStudentModel,
    student_from_teacher,
)
from hf_distill.students.static.from_teacher import SMOOTHING, unpooled_token_ids
from tests.students.cases import BART, BERT, STUDENT_TOKENIZER, TEACHER_TOKENIZER, VOCABULARY, bert_teacher

BOTH = (STUDENT_TOKENIZER, TEACHER_TOKENIZER)


def config(**settings):
    return StaticStudentConfig(**{"vocab_size": VOCABULARY, "embedding_size": 6, **settings})


def scaled(rows):
    return rows / np.sqrt((rows**2).mean())


def assert_equal_up_to_signs(found, expected):
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=2e-5)


def test_the_table_is_the_principal_components_of_the_teachers():
    teacher = bert_teacher(num_labels=3)
    before = copy.deepcopy(teacher.state_dict())
    student, carried = student_from_teacher(teacher, config(ngram_buckets=7))
    assert type(student) is StaticStudentForSequenceClassification and student.config.num_labels == 3
    table = teacher.get_input_embeddings().weight.detach().double().numpy()
    expected = scaled(PCA(6, svd_solver="full").fit_transform(table))
    assert_equal_up_to_signs(student.static.embeddings.weight.detach().numpy()[1:], expected[1:])
    assert not student.static.embeddings.weight[0].any() and student.config.pad_token_id == 0
    assert list(carried) == ["static.embeddings.weight"]
    assert carried["static.embeddings.weight"].startswith("PCA of bert.embeddings.word_embeddings.weight, 24 -> 6, ")
    assert torch.equal(student.static.embeddings.token_weights, torch.ones(VOCABULARY))
    assert student.config.unpooled_token_ids is None  # no tokenizer says which
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_vocabulary_of_its_own_gets_means_of_pieces():
    teacher = bert_teacher()
    shape = config(vocab_size=len(STUDENT_TOKENIZER), embedding_size=24)
    student, carried = student_from_teacher(teacher, shape, *BOTH)
    rows, theirs = student.static.embeddings.weight, teacher.get_input_embeddings().weight
    index, pieces = STUDENT_TOKENIZER.get_vocab()["flying"], TEACHER_TOKENIZER.convert_tokens_to_ids(["fly", "##ing"])
    ratio = rows[index] / theirs[pieces].mean(0)
    torch.testing.assert_close(ratio, ratio[:1].expand(24), rtol=1e-4, atol=0)
    assert carried["static.embeddings.weight"].startswith("means of the pieces in bert.embeddings")
    assert student.config.unpooled_token_ids == sorted(
        STUDENT_TOKENIZER.convert_tokens_to_ids(["[UNK]", "[CLS]", "[SEP]"])
    )
    assert shape.unpooled_token_ids is None  # not changed


@pytest.mark.parametrize("training", [False, True])
def test_tokens_pass_through_the_layers_one_by_one(training):
    teacher = bert_teacher(hidden_dropout_prob=0.5).train(training)
    shape = config(vocab_size=len(STUDENT_TOKENIZER), embedding_size=24, teacher_embeddings="layers")
    student, carried = student_from_teacher(teacher, shape, *BOTH)
    assert teacher.training is training
    read = {"flying": ["fly", "##ing"], "w3": ["w3"], "##ings": ["##ing", "##s"], "fly": ["fly"]}
    expected = []
    for pieces in read.values():
        ids = TEACHER_TOKENIZER.convert_tokens_to_ids(["[CLS]", *pieces, "[SEP]"])
        with torch.no_grad():
            expected.append(teacher.eval().bert(torch.tensor([ids])).last_hidden_state[0].mean(0))
    places = STUDENT_TOKENIZER.convert_tokens_to_ids([*read])
    ratio = student.static.embeddings.weight[places] / torch.stack(expected)
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3, atol=0)
    assert carried["static.embeddings.weight"].startswith("each token passed through the teacher's layers, times ")


@pytest.mark.parametrize(
    "teacher",
    [
        lambda: BertModel(BertConfig(**BERT)),
        lambda: BartForSequenceClassification(BartConfig(**BART)),
        lambda: LSTMStudentForSequenceClassification(LSTMStudentConfig(vocab_size=VOCABULARY, embedding_size=8)),
    ],
)
def test_the_layers_of_other_teachers(teacher):
    torch.manual_seed(0)
    student, _ = student_from_teacher(teacher(), config(teacher_embeddings="layers"), None, TEACHER_TOKENIZER)
    table = student.get_input_embeddings().weight
    assert table.isfinite().all() and len(table.unique(dim=0)) > 40


def test_weights_are_the_smooth_inverse_frequency():
    texts = ["fly w3 w3", "fly", "flying fly", ""]
    shape = config(vocab_size=len(STUDENT_TOKENIZER))
    student, carried = student_from_teacher(bert_teacher(), shape, *BOTH, texts=iter(texts))
    weights, ids = student.static.embeddings.token_weights, STUDENT_TOKENIZER.get_vocab()
    for token, share in {"fly": 3 / 6, "w3": 2 / 6, "flying": 1 / 6, "##ings": 0, "[CLS]": 0}.items():
        assert weights[ids[token]].item() == pytest.approx(SMOOTHING / (SMOOTHING + share), rel=1e-5)
    assert weights.requires_grad
    assert carried["static.embeddings.token_weights"] == "smooth inverse frequency of 6 tokens, 0.001 / (0.001 + p)"


def test_tokens_that_say_nothing():
    assert unpooled_token_ids(TEACHER_TOKENIZER) == [1, 2, 3]
    assert unpooled_token_ids(None) is None
    kept, _ = student_from_teacher(bert_teacher(), config(unpooled_token_ids=[]), None, TEACHER_TOKENIZER)
    assert kept.config.unpooled_token_ids == []


def test_the_head_is_the_teachers():
    assert type(student_from_teacher(BertModel(BertConfig(**BERT)), config())[0]) is StaticStudentModel
    tagger = StaticStudentForTokenClassification(StaticStudentConfig(vocab_size=VOCABULARY, num_labels=4))
    student, _ = student_from_teacher(tagger, config(embedding_size=128))
    assert type(student) is StaticStudentForTokenClassification and student.config.num_labels == 4


@pytest.mark.parametrize(
    ("teacher", "settings", "arguments", "message"),
    [
        (lambda: bert_teacher(BertForMaskedLM), {}, {}, "BertForMaskedLM, for which there is no static student"),
        (bert_teacher, {"embedding_size": 25}, {}, "Expected embedding_size of at most 24"),
        (bert_teacher, {"teacher_embeddings": "layers"}, {}, "no tokenizer that has them. Pass teacher_tokenizer="),
        (
            bert_teacher,
            {"teacher_embeddings": "layers", "embedding_size": 25},
            {"teacher_tokenizer": TEACHER_TOKENIZER},
            "Expected embedding_size of at most 24",
        ),
        (bert_teacher, {}, {"texts": ["fly"]}, "there is no tokenizer. Pass tokenizer="),
        (bert_teacher, {}, {"texts": ["", " "], "teacher_tokenizer": TEACHER_TOKENIZER}, "got none with a token"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(teacher, settings, arguments, message):
    with pytest.raises(ValueError, match=message):
        student_from_teacher(teacher(), config(**settings), **arguments)
