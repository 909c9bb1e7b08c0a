"""A teacher is known by what changes its answers, and by nothing else."""

import torch
from transformers import BertTokenizer

from hf_distill.teachers.ensemble import TeacherEnsemble
from hf_distill.teachers.identity import config_hash, public_name, tokenizer_hash, weights_hash
from hf_distill.teachers.live import LiveTeacher
from tests.conftest import tiny_bert

CPU = torch.device("cpu")


def of(model):
    return LiveTeacher(model, CPU)


def test_the_same_weights_have_the_same_hash_under_any_name():
    model, other = tiny_bert(), tiny_bert()
    other.config._name_or_path = "user/other"
    assert weights_hash(of(model)) == weights_hash(of(other))
    with torch.no_grad():
        other.classifier.bias[0] += 1e-6
    assert weights_hash(of(model)) != weights_hash(of(other))
    halves = [weights_hash(of(TeacherEnsemble([model, other], weights))) for weights in (None, [0.5, 0.5], [0.9, 0.1])]
    assert halves[0] == halves[1] != halves[2]


def test_names_in_a_config_change_nothing_and_settings_do():
    model = tiny_bert()
    named = tiny_bert(id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    assert config_hash(of(model)) == config_hash(of(named))
    assert config_hash(of(model)) != config_hash(of(tiny_bert(hidden_act="relu")))


def test_padding_changes_no_token_and_a_word_does():
    first, second = (BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, word: 2}) for word in ("a", "b"))
    before = tokenizer_hash(first)
    first(["a", "a a"], padding=True, truncation=True, max_length=8)
    assert tokenizer_hash(first) == before != tokenizer_hash(second)


def test_a_folder_is_not_told(tmp_path):
    model = tiny_bert()
    model.config._name_or_path = str(tmp_path)
    assert public_name(of(model)) == "BertForSequenceClassification"
    model.config._name_or_path = "user/teacher"
    assert public_name(of(model)) == "user/teacher"
