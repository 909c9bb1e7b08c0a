"""The loss contract, the drop-in promise, evaluation and errors of `DistillationTrainer`."""

from functools import partial

import datasets
import numpy as np
import pytest
import torch
from transformers import BertTokenizerFast, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    HiddenStateMatching,
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    TeacherEnsemble,
    cache_teacher_outputs,
)
from tests.conftest import collate, tiny_bert, tiny_rows

COMMON = {
    "num_train_epochs": 2,
    "learning_rate": 0.05,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.5,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 0,
}


def arguments(tmp_path, cls=DistillationArguments, batch=8, accumulation=1, **changes):
    return cls(
        str(tmp_path),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        **{**COMMON, **changes},
    )


def trained(tmp_path, model, rows, trainer_class=DistillationTrainer, trainer_arguments=None, **changes):
    """A trainer after its training."""
    trainer = trainer_class(
        model,
        arguments(tmp_path, **changes),
        train_dataset=rows,
        data_collator=collate,
        **(trainer_arguments or {}),
    )
    trainer.train()
    return trainer


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def assert_same(left, right, tolerance=0.0):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.allclose(left[name], right[name], rtol=0, atol=tolerance), name


def history(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.mark.parametrize("accumulation", [1, 4])
def test_without_teacher_and_plain_arguments_it_is_trainer(tmp_path, accumulation):
    made = [
        trained(
            tmp_path,
            tiny_bert(dropout=0.1),
            tiny_rows(classes=2),
            cls,
            cls=TrainingArguments,
            accumulation=accumulation,
        )
        for cls in (Trainer, DistillationTrainer)
    ]
    assert_same(weights(made[0]), weights(made[1]))
    assert history(made[0], "loss") == history(made[1], "loss")
    assert made[1].loss_is_scaled_for_ga is None


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_labels_alone_equal_trainer_without_accumulation(tmp_path, smoothing):
    stock = trained(
        tmp_path, tiny_bert(), tiny_rows(classes=2), Trainer, cls=TrainingArguments, label_smoothing_factor=smoothing
    )
    ours = trained(
        tmp_path,
        tiny_bert(),
        tiny_rows(classes=2),
        hard_label_weight=1,
        soft_target_weight=0,
        label_smoothing_factor=smoothing,
    )
    assert_same(weights(stock), weights(ours), 1e-6)


def float_labels(rows, kind):
    generator = np.random.default_rng(1)
    shape = (len(rows), 3) if kind == "multi_label_classification" else (len(rows),)
    values = generator.integers(0, 2, shape) if kind == "multi_label_classification" else generator.normal(size=shape)
    values = values.astype(np.float32)
    values[::5] = np.nan  # no label
    return rows.remove_columns("labels").add_column("labels", values.tolist())


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification", "regression"])
@pytest.mark.parametrize("loss", ["forward_kl", "logit_mse"])
def test_cutting_a_step_changes_nothing(tmp_path, kind, loss):
    """Accumulation 1, 2 and 4 over uneven labels, one micro-batch without any: same losses, same weights."""
    labels = 1 if kind == "regression" else 3
    rows = tiny_rows(22, unlabelled=9)  # 22 rows: the last step is short
    if kind != "single_label_classification":
        rows = float_labels(rows, kind)
    made = []
    for batch, accumulation in ((8, 1), (4, 2), (2, 4)):
        model = tiny_bert(num_labels=labels, problem_type=kind).double()
        teacher = tiny_bert(seed=1, num_labels=labels, problem_type=kind).double()
        made.append(
            trained(
                tmp_path,
                model,
                rows,
                batch=batch,
                accumulation=accumulation,
                soft_target_loss=loss,
                trainer_arguments={"teacher_model": teacher},
            )
        )
    for other in made[1:]:
        assert_same(weights(made[0]), weights(other), 1e-9)
        for key in ("loss", "hard_loss", "soft_loss", "grad_norm"):
            assert np.allclose(history(made[0], key), history(other, key), atol=1e-6)
    first = made[0].state.log_history[0]
    assert first["loss"] == pytest.approx(0.5 * first["hard_loss"] + 0.5 * first["soft_loss"], abs=1e-6)


def test_first_step_against_numpy(tmp_path):
    """The logged terms of one step against numbers worked out apart from the trainer."""
    rows, model, teacher = tiny_rows(8, unlabelled=3), tiny_bert(num_labels=3), tiny_bert(seed=1, num_labels=3)
    with torch.no_grad():
        batch = collate([row for row in rows])
        labels = np.array(batch.pop("labels"))
        student_logits, teacher_logits = (m(**batch).logits.double().numpy() for m in (model, teacher))
    trainer = trained(
        tmp_path, model, rows, num_train_epochs=1, temperature=3.0, trainer_arguments={"teacher_model": teacher}
    )

    def log_softmax(logits):
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    q, p = log_softmax(student_logits / 3), log_softmax(teacher_logits / 3)
    soft = 9 * (np.exp(p) * (p - q)).sum(-1).mean()
    hard = -np.mean([log_softmax(student_logits)[i, label] for i, label in enumerate(labels) if label != -100])
    first = trainer.state.log_history[0]
    assert first["hard_loss"] == pytest.approx(hard, abs=1e-5)
    assert first["soft_loss"] == pytest.approx(soft, abs=1e-5)


def test_padding_further_changes_nothing(tmp_path):
    made = []
    for extra in (0, 7):
        trainer = DistillationTrainer(
            tiny_bert(num_labels=3).double(),
            arguments(tmp_path),
            teacher_model=tiny_bert(seed=1, num_labels=3).double(),
            train_dataset=tiny_rows(16, unlabelled=4),
            data_collator=partial(collate, extra=extra),
        )
        trainer.train()
        made.append(weights(trainer))
    assert_same(*made, 1e-9)


def test_cached_float32_equals_live(tmp_path):
    rows, teacher = tiny_rows(24, unlabelled=8), tiny_bert(seed=1, num_labels=3)
    live = trained(tmp_path / "a", tiny_bert(num_labels=3), rows, trainer_arguments={"teacher_model": teacher})
    cached = cache_teacher_outputs(
        rows, teacher, task="text-classification", output_dir=tmp_path / "cache", dtype="float32"
    )
    from_cache = trained(tmp_path / "b", tiny_bert(num_labels=3), cached)
    assert_same(weights(live), weights(from_cache), 1e-6)
    assert np.allclose(history(live, "loss"), history(from_cache, "loss"), atol=1e-6)


def test_teacher_is_left_as_it_was(tmp_path):
    teacher = tiny_bert(seed=1, num_labels=3, dropout=0.5)
    teacher.train()
    teacher.bert.pooler.eval()  # modes may be mixed
    modes = [module.training for module in teacher.modules()]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer = trained(
        tmp_path,
        tiny_bert(num_labels=3),
        tiny_rows(),
        save_strategy="epoch",
        trainer_arguments={"teacher_model": teacher},
    )
    assert_same(before, teacher.state_dict())
    assert [module.training for module in teacher.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    checkpoint = next(tmp_path.glob("checkpoint-*"))
    saved = type(trainer.model).from_pretrained(checkpoint)
    assert saved.num_parameters() == trainer.model.num_parameters()
    # Dropout in the teacher would make its targets random.
    quiet = tiny_bert(seed=1, num_labels=3)
    again = trained(tmp_path, tiny_bert(num_labels=3), tiny_rows(), trainer_arguments={"teacher_model": quiet})
    assert_same(weights(trainer), weights(again))


def test_teacher_with_its_own_tokenizer(tmp_path):
    """The teacher reads teacher_input_ids, padded on their own, and the student never sees them."""
    rows = tiny_rows(16, classes=3)
    other = tiny_rows(16, seed=5)
    both = rows.add_column("teacher_input_ids", other["input_ids"]).add_column(
        "teacher_attention_mask", other["attention_mask"]
    )
    teacher = tiny_bert(seed=1, num_labels=3)
    live = trained(tmp_path, tiny_bert(num_labels=3), both, trainer_arguments={"teacher_model": teacher})
    with torch.no_grad():
        said = [teacher(**collate([row])).logits[0].tolist() for row in other.remove_columns("labels")]
    expected = trained(tmp_path, tiny_bert(num_labels=3), rows.add_column("teacher_logits", said))
    assert_same(weights(live), weights(expected), 1e-6)


def test_ensemble_is_the_mixture_of_probabilities(tmp_path):
    members = [tiny_bert(seed=seed, num_labels=3) for seed in (1, 2)]
    batch = collate([row for row in tiny_rows(5).remove_columns("labels")])
    with torch.no_grad():
        logits = [member(**batch).logits for member in members]
    mixed = TeacherEnsemble(members, [3, 1]).mixture(logits).softmax(-1)
    assert torch.allclose(mixed, 0.75 * logits[0].softmax(-1) + 0.25 * logits[1].softmax(-1), atol=1e-6)
    live = trained(
        tmp_path / "a",
        tiny_bert(num_labels=3),
        tiny_rows(),
        trainer_arguments={"teacher_model": TeacherEnsemble(members)},
    )
    cached = cache_teacher_outputs(
        tiny_rows(), TeacherEnsemble(members), task="text-classification", output_dir=tmp_path / "c", dtype="float32"
    )
    assert_same(weights(live), weights(trained(tmp_path / "b", tiny_bert(num_labels=3), cached)), 1e-6)


def test_schedules_reach_their_ends(tmp_path):
    settings = DistillationArguments(
        str(tmp_path), temperature=4, temperature_end=1, soft_target_weight=1, soft_target_weight_end=0, use_cpu=True
    )
    assert [settings.at(progress).temperature for progress in (0, 0.5, 1)] == [4, 2.5, 1]
    assert [settings.at(progress).soft for progress in (0, 0.5, 1)] == [1, 0.5, 0]
    trainer = trained(
        tmp_path,
        tiny_bert(num_labels=3),
        tiny_rows(16),
        soft_target_weight=1.0,
        soft_target_weight_end=0.0,
        hard_label_weight=0.0,
        hard_label_weight_end=1.0,
        trainer_arguments={"teacher_model": tiny_bert(seed=1, num_labels=3)},
    )
    for step, entry in enumerate(trainer.state.log_history[:-1]):
        moved = step / trainer.state.max_steps
        assert entry["loss"] == pytest.approx((1 - moved) * entry["soft_loss"] + moved * entry["hard_loss"], abs=1e-5)


@pytest.mark.parametrize("unlabelled", [0, 7, 16])
def test_evaluation_is_exact_whatever_the_batch(tmp_path, unlabelled):
    """Sums over counts: one row at a time or all at once, before and after training, predict and evaluate."""
    rows, teacher, model = (
        tiny_rows(16, unlabelled=unlabelled),
        tiny_bert(seed=1, num_labels=3),
        tiny_bert(num_labels=3),
    )
    found = []
    for size in (1, 5, 16):
        trainer = DistillationTrainer(
            model,
            arguments(tmp_path, per_device_eval_batch_size=size),
            teacher_model=teacher,
            eval_dataset=rows,
            data_collator=collate,
        )
        predicted = trainer.predict(rows)
        found.append((trainer.evaluate()["eval_loss"], trainer.evaluate()["eval_soft_loss"]))
        assert predicted.metrics["test_loss"] == pytest.approx(found[-1][0], abs=1e-6)
        assert predicted.predictions.shape == (16, 3)
    assert np.allclose(found, found[0], atol=1e-6)
    if unlabelled == 16:
        assert found[0][0] == found[0][1]
    if unlabelled == 0:
        stock = Trainer(model, arguments(tmp_path, cls=TrainingArguments), eval_dataset=rows, data_collator=collate)
        assert stock.evaluate()["eval_loss"] == pytest.approx(found[0][0], abs=1e-6)


def test_evaluation_of_rows_without_a_labels_column(tmp_path):
    rows = tiny_rows(9).remove_columns("labels")
    trainer = DistillationTrainer(
        tiny_bert(num_labels=3),
        arguments(tmp_path),
        teacher_model=tiny_bert(seed=1, num_labels=3),
        eval_dataset=rows,
        data_collator=collate,
    )
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == metrics["eval_soft_loss"] > 0
    assert trainer.predict(rows).label_ids is None


def test_killed_run_resumes_bitwise(tmp_path):
    """Dropout, accumulation and a schedule: stopping at a checkpoint and going on gives the run that never stopped."""
    settings = {
        "accumulation": 2,
        "batch": 2,
        "optim": "adamw_torch",
        "temperature_end": 1.0,
        "save_strategy": "steps",
        "save_steps": 3,
    }

    def build():
        return DistillationTrainer(
            tiny_bert(num_labels=3, dropout=0.3),
            arguments(tmp_path, **settings),
            teacher_model=tiny_bert(seed=1, num_labels=3),
            train_dataset=tiny_rows(16, unlabelled=4),
            data_collator=collate,
        )

    whole = build()
    whole.train()
    resumed = build()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same(weights(whole), weights(resumed))
    assert history(whole, "soft_loss")[3:] == history(resumed, "soft_loss")[3:]


def test_two_token_shift_of_causal_models(tmp_path):
    """A causal student learns each next token: the first position has no count, and accumulation changes nothing."""
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=40,
    )
    rows = tiny_rows(8).map(lambda row: {"labels": [-100, *row["input_ids"][1:]]}, remove_columns="labels")

    def pad(batch):
        longest = max(len(row["input_ids"]) for row in batch)
        fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
        return {
            name: torch.tensor([row[name] + [fill[name]] * (longest - len(row[name])) for row in batch])
            for name in fill
        }

    made = []
    for batch, accumulation in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        student, teacher = LlamaForCausalLM(config).double(), LlamaForCausalLM(config).double()
        trainer = DistillationTrainer(
            student,
            arguments(tmp_path, batch=batch, accumulation=accumulation),
            teacher_model=teacher,
            train_dataset=rows,
            data_collator=pad,
        )
        if not made:
            inputs = pad([row for row in rows])
            with torch.no_grad():
                stock = student(**inputs).loss.item()
            assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(stock, abs=1e-6)
        trainer.train()
        made.append(weights(trainer))
    assert_same(*made, 1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hard_label_weight": -1}, "hard_label_weight must be a finite number >= 0, got -1"),
        ({"soft_target_weight": float("nan")}, "soft_target_weight must be a finite number"),
        ({"temperature": 0}, "temperature must be a finite number > 0, got 0"),
        ({"soft_target_loss": "kl"}, "soft_target_loss must be one of forward_kl, .* got 'kl'"),
        ({"soft_target_beta": 1.5}, "soft_target_beta of forward_kl must be from 0 to 1, got 1.5"),
        ({"soft_target_loss": "skewed_kl", "soft_target_beta": 1.0}, "from 0 to below 1, got 1.0"),
        ({"labelled_fraction": 0.0}, "labelled_fraction must be above 0"),
        ({"loss_chunk_size": 64}, "losses of language models in chunks are not there yet"),
    ],
)
def test_arguments_out_of_range(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        DistillationArguments(str(tmp_path), use_cpu=True, **changes)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"num_labels": 4}, r"The student has 3 classes \['a', 'b', 'c'\] and the teacher 4"),
        ({"id2label": {0: "c", 1: "b", 2: "a"}}, "another order or other names"),
    ],
)
def test_teacher_with_other_classes(tmp_path, teacher, message):
    student = tiny_bert(id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    with pytest.raises(ValueError, match=message):
        DistillationTrainer(student, arguments(tmp_path), teacher_model=tiny_bert(**teacher))


def test_another_task_teaches_through_matchings_alone(tmp_path):
    """A teacher of other classes is refused for its soft targets, and welcome for its inner states."""
    settings = {"soft_target_weight": 0.0, "hard_label_weight": 1.0}
    keywords = {"teacher_model": tiny_bert(seed=1, num_labels=7), "matching": [HiddenStateMatching({-1: -1})]}
    trainer = trained(tmp_path, tiny_bert(num_labels=3), tiny_rows(), trainer_arguments=keywords, **settings)
    assert history(trainer, "hidden_state_loss")[-1] < history(trainer, "hidden_state_loss")[0]
    assert "eval_soft_loss" not in trainer.evaluate(tiny_rows(4))


def test_a_teacher_is_not_fed_another_vocabulary(tmp_path):
    student = LSTMStudentForSequenceClassification(LSTMStudentConfig(vocab_size=20, num_labels=3))
    with pytest.raises(ValueError, match=r"The student knows 20 tokens and the teacher 50.*teacher_input_ids"):
        DistillationTrainer(student, arguments(tmp_path), teacher_model=tiny_bert(num_labels=3))
    tokenizers = []
    for number, words in enumerate((["a", "b"], ["b", "a"], ["a", "b"])):
        path = tmp_path / f"vocab{number}.txt"
        path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
        tokenizers.append(BertTokenizerFast(str(path)))
    made = {"teacher_model": tiny_bert(num_labels=3), "processing_class": tokenizers[0]}
    with pytest.raises(ValueError, match="tokenizers of student and teacher differ in 4 tokens"):
        DistillationTrainer(student, arguments(tmp_path), teacher_processing_class=tokenizers[1], **made)
    trainer = DistillationTrainer(student, arguments(tmp_path), teacher_processing_class=tokenizers[2], **made)
    assert trainer.evaluate(tiny_rows(0).from_dict({"input_ids": [[5, 6]], "labels": [1]}))["eval_soft_loss"] > 0


def test_padding_rows_of_a_vocabulary_are_no_tokens(tmp_path):
    """A causal student whose table has 8 rows more than its teacher's, for one tokenizer of 40 tokens."""
    path = tmp_path / "vocab.txt"
    words = [f"w{number}" for number in range(35)]
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    tokenizer = BertTokenizerFast(str(path))
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    student, teacher = (
        LlamaForCausalLM(LlamaConfig(vocab_size=size, num_key_value_heads=2, **shape)) for size in (56, 48)
    )
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "labels": torch.tensor([[5, 6, 7, 8]])}
    rows = datasets.Dataset.from_dict({name: value.tolist() for name, value in batch.items()})
    trainer = DistillationTrainer(
        student,
        arguments(tmp_path, temperature=1.0),
        teacher_model=teacher,
        processing_class=tokenizer,
        teacher_processing_class=tokenizer,
        data_collator=lambda batch: {name: torch.tensor([row[name] for row in batch]) for name in batch[0]},
    )
    with torch.no_grad():
        q, p = (model(batch["input_ids"]).logits[0, :-1, :40].log_softmax(-1) for model in (student, teacher))
    assert trainer.evaluate(rows)["eval_soft_loss"] == pytest.approx(
        (p.exp() * (p - q)).sum(-1).mean().item(), abs=1e-5
    )


def test_soft_targets_without_a_teacher(tmp_path):
    with pytest.raises(ValueError, match="soft_target_weight is above 0 but there is no teacher: pass teacher_model"):
        DistillationTrainer(tiny_bert(), arguments(tmp_path), train_dataset=tiny_rows(), data_collator=collate)


def test_compute_loss_func_is_refused(tmp_path):
    with pytest.raises(ValueError, match="compute_loss_func cannot be combined with distillation"):
        DistillationTrainer(
            tiny_bert(), arguments(tmp_path), teacher_model=tiny_bert(), compute_loss_func=lambda *_, **__: 0
        )


def test_class_losses_are_refused_for_other_problems(tmp_path):
    kind = "multi_label_classification"
    with pytest.raises(ValueError, match=r"the student's problem is multi_label_classification\. Choose bernoulli_kl"):
        trained(
            tmp_path,
            tiny_bert(num_labels=3, problem_type=kind),
            float_labels(tiny_rows(), kind),
            soft_target_loss="reverse_kl",
            trainer_arguments={"teacher_model": tiny_bert(seed=1, num_labels=3, problem_type=kind)},
        )


def test_collator_that_shuffles_is_refused_with_a_cache(tmp_path):
    rows = tiny_rows(8).add_column("teacher_logits", [[0.0, 1.0, 2.0]] * 8)
    trainer = DistillationTrainer(
        tiny_bert(num_labels=3),
        arguments(tmp_path),
        train_dataset=rows,
        data_collator=lambda batch: collate(batch[::-1]),
    )
    with pytest.raises(ValueError, match="packs, shuffles, truncates or masks rows: 8 rows went in"):
        trainer.train()


def test_iterable_dataset_and_unused_columns(tmp_path):
    rows = tiny_rows(16).add_column("text", ["x"] * 16)
    teacher = tiny_bert(seed=1, num_labels=3)
    listed = trained(
        tmp_path,
        tiny_bert(num_labels=3),
        rows,
        train_sampling_strategy="sequential",
        trainer_arguments={"teacher_model": teacher},
    )
    streamed = trained(
        tmp_path,
        tiny_bert(num_labels=3),
        rows.to_iterable_dataset(),
        max_steps=4,
        trainer_arguments={"teacher_model": teacher},
    )
    assert isinstance(streamed.train_dataset, datasets.IterableDataset)
    assert_same(weights(listed), weights(streamed), 1e-6)
