"""Students of a teacher: labels and special tokens, the same every time, and what is refused."""

import pytest
import torch
from transformers import BertTokenizer, MarianConfig, MarianMTModel

from hf_distill.students.from_teacher import student_from_teacher
from hf_distill.students.lstm.configuration_lstm import LSTMStudentConfig
from tests.students.cases import BART, STUDENT_TOKENIZER, TEACHER_TOKENIZER, VOCABULARY, bert_teacher, wordpiece


def test_special_token_ids_come_from_the_students_tokenizer():
    tokens = ["w1", "</s>", "<s>", "[UNK]", "<pad>"]
    tokenizer = BertTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        **{"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "bos_token": "<s>", "eos_token": "</s>"},
    )
    tokenizer.mask_token = None
    torch.manual_seed(0)
    teacher = MarianMTModel(MarianConfig(**BART | {"decoder_start_token_id": 1}))
    config = LSTMStudentConfig(vocab_size=len(tokenizer), embedding_size=6, hidden_size=4)
    student, _ = student_from_teacher(teacher, config, tokenizer, TEACHER_TOKENIZER)
    ids = student.config.pad_token_id, student.config.eos_token_id, student.config.decoder_start_token_id
    assert ids == (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert not student.lstm.embeddings.weight[tokenizer.pad_token_id].any()


def test_the_student_is_the_same_every_time():
    students = []
    for _ in range(2):
        torch.manual_seed(5)
        config = LSTMStudentConfig(vocab_size=len(STUDENT_TOKENIZER), embedding_size=6)
        students.append(student_from_teacher(bert_teacher(), config, STUDENT_TOKENIZER, TEACHER_TOKENIZER)[0])
    assert all(torch.equal(a, b) for a, b in zip(*(student.parameters() for student in students), strict=True))


def test_labels_come_from_the_teacher():
    names = {0: "good", 1: "bad", 2: "ugly"}
    teacher = bert_teacher(id2label=names, label2id={name: index for index, name in names.items()})
    teacher.config.problem_type = "multi_label_classification"
    open_config = LSTMStudentConfig(vocab_size=VOCABULARY, embedding_size=6)
    student, _ = student_from_teacher(teacher, open_config)
    assert (student.config.id2label, student.config.num_labels) == (names, 3)
    assert student.config.label2id == teacher.config.label2id
    assert student.config.problem_type == "multi_label_classification"
    assert student.classifier.out_features == 3 and open_config.num_labels == 2
    same = LSTMStudentConfig(vocab_size=VOCABULARY, embedding_size=6, id2label=names)
    assert student_from_teacher(teacher, same)[0].config.id2label == names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_labels": 4}, r"teacher's labels \['good', 'bad', 'ugly'\], got \['LABEL_0', 'LABEL_1'"),
        ({"id2label": {0: "bad", 1: "good", 2: "ugly"}}, r"got \['bad', 'good', 'ugly'\]"),
        ({"id2label": {0: "no", 1: "yes"}}, r"got \['no', 'yes'\]"),
        ({"problem_type": "regression"}, "problem_type 'multi_label_classification', got 'regression'"),
        ({"vocab_size": 60}, "teacher's vocabulary size of 50, got 60 for the student"),
        ({"embedding_size": 25}, "Expected embedding_size of at most 24"),
    ],
)
def test_students_that_do_not_fit_are_refused(settings, message):
    teacher = bert_teacher(id2label={0: "good", 1: "bad", 2: "ugly"})
    teacher.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match=message):
        student_from_teacher(teacher, LSTMStudentConfig(**{"vocab_size": VOCABULARY, "embedding_size": 6} | settings))


def test_tokenizers_that_do_not_fit_their_tables_are_refused():
    for size, tokenizers, name in (
        (8, (STUDENT_TOKENIZER, TEACHER_TOKENIZER), "student"),
        (9, (STUDENT_TOKENIZER, wordpiece(*map(str, range(50)))), "teacher"),
    ):
        config = LSTMStudentConfig(vocab_size=size, embedding_size=6)
        with pytest.raises(ValueError, match=f"Is it the {name}'s tokenizer"):
            student_from_teacher(bert_teacher(), config, *tokenizers)
    with pytest.raises(ValueError, match="Pass tokenizer= and teacher_tokenizer="):
        student_from_teacher(bert_teacher(), LSTMStudentConfig(vocab_size=9, embedding_size=6), STUDENT_TOKENIZER)
