"""Members of an ensemble: all of them are checked, and each gets the arguments it takes."""

import numpy as np
import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification, set_seed

from hf_distill import DistillationArguments, DistillationTrainer, TeacherEnsemble, cache_teacher_outputs
from hf_distill.losses import LOSSES
from hf_distill.teachers.live import LiveTeacher
from tests.cases import models
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.teachers.models import tiny_llama

MULTI = "multi_label_classification"
CPU = torch.device("cpu")


def named(seed, names):
    return tiny_bert(
        seed=seed,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        (lambda: [named(0, "abc"), named(1, "abc"), named(2, "bca")], "Member 0 of the ensemble's .* member 2's"),
        (lambda: [tiny_bert(num_labels=3), named(0, "abc"), named(2, "bca")], "another order or other names"),
        (lambda: [tiny_bert(num_labels=3), tiny_bert(num_labels=4)], "Member 0 of the ensemble has 3 .* member 1 4"),
        (
            lambda: [tiny_bert(num_labels=3), tiny_bert(num_labels=3, problem_type=MULTI)],
            None,
        ),
        (
            lambda: [
                tiny_bert(num_labels=3, problem_type="single_label_classification"),
                tiny_bert(num_labels=3),
                tiny_bert(num_labels=3, problem_type=MULTI),
            ],
            "problem type is single_label_classification and member 2's multi_label_classification",
        ),
        (
            lambda: [tiny_bert(num_labels=1), tiny_bert(num_labels=1, problem_type=MULTI)],
            "problem type is regression and member 1's multi_label_classification",
        ),
    ],
)
def test_members_agree_on_classes_and_problem(members, problem):
    if problem is None:
        assert TeacherEnsemble(members()).problem_type == MULTI
        return
    with pytest.raises(ValueError, match=problem):
        TeacherEnsemble(members())


def trainer(folder, student, teacher, rows, **changes):
    settings = DistillationArguments(
        str(folder),
        **{
            "max_steps": 1,
            "learning_rate": 0.0,
            "logging_steps": 1,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
            "disable_tqdm": True,
            "per_device_train_batch_size": len(rows),
            **changes,
        },
    )
    return DistillationTrainer(student, settings, teacher_model=teacher, train_dataset=rows, data_collator=collate)


def logged(made, part):
    made.train()
    return next(value for name, value in made.state.log_history[0].items() if part in name and "loss" in name)


@pytest.mark.parametrize("number", [0, 1])
def test_every_member_is_checked_against_the_student(tmp_path, number):
    def teacher(**other):
        return TeacherEnsemble([tiny_bert(num_labels=3, **(other if place == number else {})) for place in (0, 1)])

    larger = {"num_labels": 3}
    with pytest.raises(ValueError, match=r"The student's classes are .* and member"):
        order = {"id2label": dict(enumerate("bca")), "label2id": {"b": 0, "c": 1, "a": 2}}
        trainer(tmp_path, named(0, "abc"), teacher(**order), tiny_rows())
    student = tiny_bert(num_labels=3, problem_type="single_label_classification")
    with pytest.raises(ValueError, match=r"problem type is single_label_classification and member .* multi_label"):
        trainer(tmp_path, student, teacher(problem_type=MULTI), tiny_rows())
    members = [tiny_bert(**larger), tiny_bert(**larger)]
    members[number].config.vocab_size = 60
    members[number].resize_token_embeddings(60)
    with pytest.raises(ValueError, match="The student knows 50 tokens and the teacher 60"):
        trainer(tmp_path, tiny_bert(num_labels=3), TeacherEnsemble(members), tiny_rows())


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("labels", ["none", "float"])
def test_multi_label_in_an_ensemble_as_in_one(tmp_path, members, labels):
    """With the problem type unset everywhere, or of one member alone, of rows with and without labels."""
    rows, student = tiny_rows(8), tiny_bert(num_labels=3)
    teachers = [tiny_bert(seed=1, num_labels=3) for _ in range(members)]
    rows = rows.remove_columns("labels")
    if labels == "float":
        rows = rows.add_column("labels", np.eye(3)[np.arange(8) % 3].tolist())
    else:
        teachers[-1].config.problem_type = MULTI
    batch = collate(rows.to_list())
    with torch.no_grad():
        logits = [model(**{k: v for k, v in batch.items() if k != "labels"}).logits for model in (student, teachers[0])]
    expected = LOSSES["bernoulli_kl"](*logits, 2.0).mean().item()
    made = trainer(tmp_path, student, TeacherEnsemble(teachers), rows, hard_label_weight=0.0, soft_target_weight=1.0)
    assert logged(made, "soft") == pytest.approx(expected, abs=1e-5)
    assert student.config.problem_type == MULTI
    cached = cache_teacher_outputs(
        rows, TeacherEnsemble(teachers), task="text-classification", output_dir=tmp_path / "cache", dtype="float32"
    )
    assert torch.allclose(torch.tensor(cached["teacher_logits"]), logits[1], atol=1e-5)


def distilbert(seed):
    set_seed(seed)
    config = DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=3)
    return DistilBertForSequenceClassification(config).eval()


def test_each_member_gets_the_arguments_it_takes():
    """BERT reads token_type_ids, and DistilBERT beside it has none."""
    bert, batch = tiny_bert(num_labels=3), collate(tiny_rows(5).to_list())
    batch["token_type_ids"] = batch["attention_mask"].clone()
    ensemble = TeacherEnsemble([bert, distilbert(1)])
    together = LiveTeacher(ensemble, CPU)(batch)["logits"]
    alone = [LiveTeacher(member, CPU)(batch)["logits"] for member in ensemble.models]
    assert torch.allclose(together, ensemble.mixture(alone), atol=1e-6)
    without = LiveTeacher(bert, CPU)({name: value for name, value in batch.items() if name != "token_type_ids"})
    assert not torch.allclose(alone[0], without["logits"], atol=1e-4)


def test_each_decoder_starts_with_its_own_token():
    one, other = (models("seq2seq", "")[0].float().eval() for _ in range(2))
    other.config.decoder_start_token_id = 7
    batch = collate(tiny_rows(3).to_list()) | {"labels": torch.tensor([[5, 6], [7, 8], [9, 3]])}
    together = LiveTeacher(TeacherEnsemble([one, other]), CPU)(batch)["logits"]
    alone = [LiveTeacher(member, CPU)(batch)["logits"] for member in (one, other)]
    assert not torch.allclose(*alone, atol=1e-3)
    assert torch.allclose(together, TeacherEnsemble([one, other]).mixture(alone), atol=1e-6)


def test_tables_of_two_sizes():
    one, other = tiny_llama(), tiny_llama(vocab_size=64)
    teacher = LiveTeacher(TeacherEnsemble([one, other]), CPU)
    batch = {"input_ids": torch.tensor([[5, 6, 7]])}
    with pytest.raises(ValueError, match=r"have \[50, 64\] outputs, .* call resize_token_embeddings"):
        teacher(batch)
    teacher.tokens = 50
    expected = teacher.model.mixture([one(**batch).logits, other(**batch).logits[..., :50]])
    assert torch.allclose(teacher(batch)["logits"], expected, atol=1e-6)
    rows = tiny_rows(3).remove_columns("labels")
    with pytest.raises(ValueError, match=r"members of the ensemble know \[50, 64\] tokens"):
        cache_teacher_outputs(rows, teacher.model, task="text-generation", output_dir="unused")
