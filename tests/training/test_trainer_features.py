"""What `Trainer` does, it does with a teacher: adapters, search, compilation, precision, resuming, generation."""

import datasets
import numpy as np
import optuna
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, GenerationConfig, TrainingArguments

from hf_distill import (
    DistillationTrainer,
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    TeacherEnsemble,
)
from hf_distill.losses import forward_kl
from hf_distill.matching.attention import AttentionMatching
from hf_distill.matching.hidden_states import HiddenStateMatching
from hf_distill.matching.relations import RelationMatching
from hf_distill.matching.variational import VariationalMatching
from hf_distill.teachers.live import LiveTeacher
from hf_distill.training.attached_matchings import FILE, NAME
from tests.cases import LAYERS, build, models, outcome, pad, position_labels
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.training.test_trainer import arguments, assert_same, history, trained, weights


def taught(tmp_path, student, teacher=None, **changes):
    """A trainer of a student with a live teacher, not trained yet."""
    keywords = {name: changes.pop(name) for name in ("matching", "compute_metrics", "model_init") if name in changes}
    return DistillationTrainer(
        student,
        arguments(tmp_path, **changes),
        teacher_model=teacher or tiny_bert(seed=1, num_labels=3),
        train_dataset=tiny_rows(16, unlabelled=4),
        eval_dataset=tiny_rows(8),
        data_collator=collate,
        **keywords,
    )


def test_hyperparameter_search_reads_weights_and_temperature_at_use(tmp_path):
    trainer = taught(tmp_path, None, model_init=lambda: tiny_bert(num_labels=3), num_train_epochs=1)
    seen = []

    def space(trial: optuna.Trial) -> dict[str, float]:
        return {
            "soft_target_weight": trial.suggest_categorical("soft_target_weight", [0.1, 0.9]),
            "temperature": trial.suggest_categorical("temperature", [1.0, 5.0]),
        }

    def objective(metrics: dict[str, float]) -> float:
        first = trainer.state.log_history[0]
        settings = (trainer.settings.soft_target_weight, trainer.settings.temperature)
        seen.append((*settings, first["soft_loss"]))
        assert first["loss"] == pytest.approx(0.5 * first["hard_loss"] + settings[0] * first["soft_loss"], abs=1e-5)
        return metrics["eval_loss"]

    sampler = optuna.samplers.GridSampler({"soft_target_weight": [0.1, 0.9], "temperature": [1.0, 5.0]})
    trainer.hyperparameter_search(space, objective, n_trials=4, backend="optuna", sampler=sampler)
    assert len({entry[:2] for entry in seen}) == 4
    soft = {entry[1]: entry[2] for entry in seen}
    assert soft[1.0] != pytest.approx(soft[5.0], rel=1e-3)


def test_matchings_start_anew_in_each_trial(tmp_path):
    trainer = taught(
        tmp_path,
        None,
        model_init=lambda: tiny_bert(num_labels=3),
        matching=[VariationalMatching(LAYERS, weight=0.5)],
        num_train_epochs=1,
    )
    first = []
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [0.05])},
        lambda metrics: first.append(history(trainer, "variational_loss")[0]) or metrics["eval_loss"],
        n_trials=2,
        backend="optuna",
    )
    assert first[0] == first[1]


def test_adapters_train_and_the_rest_stays(tmp_path):
    base = tiny_bert(num_labels=3)
    frozen = {name: value.clone() for name, value in base.state_dict().items()}
    student = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=2))
    trainer = taught(tmp_path, student, matching=[HiddenStateMatching(LAYERS)], save_strategy="epoch")
    trainer.train()
    after = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): v for name, v in student.state_dict().items()
    }
    assert all(torch.equal(after[name], value) for name, value in frozen.items() if "classifier" not in name)
    saved = load_file(next(tmp_path.glob("checkpoint-*")) / "adapter_model.safetensors")
    assert saved
    assert all("lora" in name or "classifier" in name for name in saved)
    assert any(value.abs().sum() > 0 for name, value in saved.items() if "lora_B" in name)


@pytest.mark.long
@pytest.mark.parametrize("matching", [(), (HiddenStateMatching(LAYERS, weight=0.3),)])
def test_compiled_student(tmp_path, matching):
    plain = taught(tmp_path / "a", tiny_bert(num_labels=3), matching=matching)
    compiled = taught(
        tmp_path / "b", tiny_bert(num_labels=3), matching=matching, torch_compile=True, torch_compile_backend="eager"
    )
    plain.train()
    compiled.train()
    assert np.allclose(history(plain, "loss"), history(compiled, "loss"), atol=1e-5)


def test_bf16_and_gradient_checkpointing(tmp_path):
    plain = taught(tmp_path / "a", tiny_bert(num_labels=3))
    plain.train()
    half = taught(tmp_path / "b", tiny_bert(num_labels=3), bf16=True, matching=[RelationMatching(LAYERS, weight=0.0)])
    half.train()
    assert history(half, "loss")[0] == pytest.approx(history(plain, "loss")[0], rel=0.02)
    assert all(value.dtype == torch.float32 for value in weights(half).values() if value.is_floating_point())
    checkpointed = taught(tmp_path / "c", tiny_bert(num_labels=3), gradient_checkpointing=True)
    checkpointed.train()
    assert_same(weights(plain), weights(checkpointed), 1e-6)


def test_bf16_teacher_under_a_float32_student(tmp_path):
    exact = taught(tmp_path / "a", tiny_bert(num_labels=3))
    exact.train()
    teacher = tiny_bert(seed=1, num_labels=3).to(torch.bfloat16)
    rough = taught(tmp_path / "b", tiny_bert(num_labels=3), teacher)
    rough.train()
    assert history(rough, "soft_loss") == pytest.approx(history(exact, "soft_loss"), rel=0.1, abs=1e-3)
    assert teacher.dtype == torch.bfloat16


@pytest.mark.parametrize("mark", ["hf_device_map", "is_quantized"])
def test_placed_teachers_are_never_moved(tmp_path, monkeypatch, mark):
    teacher = tiny_bert(seed=1, num_labels=3)
    setattr(teacher, mark, {"": "cpu"})

    def refuse(*_, **__):
        raise AssertionError("a quantised or placed teacher was moved")

    monkeypatch.setattr(type(teacher), "to", refuse)
    live = LiveTeacher(teacher, torch.device("cpu"))
    batch = collate([row for row in tiny_rows(3)])
    assert live(batch)["logits"].shape == (3, 3)


def test_teacher_by_name_is_refused_under_zero_3(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_distill.teachers.live.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match=r"would be cut into pieces by ZeRO-3.*pass the model"):
        taught(tmp_path, tiny_bert(num_labels=3), "user/teacher")


def test_best_model_is_loaded_at_the_end(tmp_path):
    trainer = taught(
        tmp_path,
        tiny_bert(num_labels=3),
        matching=[HiddenStateMatching(LAYERS)],
        compute_metrics=lambda made: {"accuracy": float((made.predictions.argmax(-1) == made.label_ids).mean())},
        num_train_epochs=4,
        learning_rate=0.5,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    trainer.train()
    losses = history(trainer, "eval_loss")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-6)
    assert trainer.state.best_metric == min(losses)


def test_projections_train_and_are_not_published(tmp_path):
    """An LSTM student, narrower than its teacher: the projection learns, and nothing of it is in the saved student."""
    student = LSTMStudentForSequenceClassification(
        LSTMStudentConfig(vocab_size=50, embedding_size=8, hidden_size=6, num_labels=3, dropout=0.0)
    )
    parameters = student.num_parameters()
    matching = [HiddenStateMatching({0: 0, -1: -1})]
    trainer = taught(tmp_path / "out", student, matching=matching, num_train_epochs=3, save_strategy="epoch")
    trainer.train()
    checkpoint = next((tmp_path / "out").glob("checkpoint-*"))
    assert sum(value.numel() for value in load_file(checkpoint / FILE).values()) == (8 + 12) * 16
    assert not [name for name in load_file(checkpoint / "model.safetensors") if NAME in name]
    assert student.num_parameters() == parameters
    assert not hasattr(student, NAME)
    assert history(trainer, "hidden_state_loss")[-1] < history(trainer, "hidden_state_loss")[0]
    trainer.save_model(str(tmp_path / "published"))
    names = load_file(tmp_path / "published" / "model.safetensors").keys()
    assert not [name for name in names if NAME in name]
    assert not (tmp_path / "published" / FILE).exists()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "published")
    batch = collate([row for row in tiny_rows(3).remove_columns("labels")])
    with torch.no_grad():
        assert torch.allclose(loaded(**batch).logits, student.eval()(**batch).logits)


def test_killed_run_with_projections_resumes_bitwise(tmp_path):
    settings = {"optim": "adamw_torch", "save_strategy": "steps", "save_steps": 3, "batch": 2, "accumulation": 2}

    def build_one():
        student = LSTMStudentForSequenceClassification(
            LSTMStudentConfig(vocab_size=50, embedding_size=8, hidden_size=6, num_labels=3, dropout=0.3)
        )
        return taught(tmp_path, student, matching=[VariationalMatching({-1: -1}, latent_size=3)], **settings)

    torch.manual_seed(0)
    whole = build_one()
    whole.train()
    torch.manual_seed(0)
    resumed = build_one()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same(weights(whole), weights(resumed))
    torch.manual_seed(0)
    other = taught(tmp_path, tiny_bert(num_labels=3), matching=[HiddenStateMatching(LAYERS)], **settings)
    with pytest.raises((ValueError, RuntimeError)):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


@pytest.mark.parametrize("granularity", ["word", "sequence"])
def test_two_tokenizers_meet_at_words_or_texts(tmp_path, granularity):
    """An LSTM student of 20 tokens and a BERT of 50: one piece a word against two, and the cut of a step is nothing."""
    rows = tiny_rows(16, unlabelled=4)
    both = rows.map(
        lambda row: {
            "input_ids": [token % 20 for token in row["input_ids"]],
            "word_starts": [-100] + [1] * (len(row["input_ids"]) - 1),
            "teacher_input_ids": [token for token in row["input_ids"] for _ in (0, 1)],
            "teacher_attention_mask": [1] * 2 * len(row["input_ids"]),
            "teacher_word_starts": [-100, -100] + [1, 0] * (len(row["input_ids"]) - 1),
        }
    )
    made = []
    for batch, accumulation in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        config = LSTMStudentConfig(vocab_size=20, embedding_size=8, hidden_size=6, num_labels=3, dropout=0.0)
        trainer = DistillationTrainer(
            LSTMStudentForSequenceClassification(config).double(),
            arguments(tmp_path, batch=batch, accumulation=accumulation, num_train_epochs=10),
            teacher_model=tiny_bert(seed=1, num_labels=3).double(),
            matching=[each({-1: -1}, granularity=granularity) for each in (HiddenStateMatching, VariationalMatching)],
            train_dataset=both,
            data_collator=collate,
        )
        trainer.train()
        made.append(trainer)
    assert_same(*(weights(trainer) for trainer in made), 1e-8)
    losses = history(made[0], "hidden_state_loss")
    assert sum(losses[-2:]) < sum(losses[:2])  # an epoch has two steps
    with pytest.raises(ValueError, match='granularity="token" compares position by position'):
        DistillationTrainer(
            made[0].model,
            made[0].args,
            teacher_model=tiny_bert(seed=1, num_labels=3).double(),
            matching=[HiddenStateMatching({-1: -1})],
            train_dataset=both,
            data_collator=collate,
        ).train()


def tagged_twice(unlabelled=4):
    """Sentences read by a student of one piece a word, and by a teacher of two pieces a word that sees fewer words of
    every third sentence and more of every fourth."""
    generator = np.random.default_rng(3)
    made = []
    for number, row in enumerate(tiny_rows(16)):
        words = row["input_ids"][: max(2, len(row["input_ids"]) - 1)]
        read = words[:-1] if number % 3 == 0 else [*words, 5] if number % 4 == 0 else words
        labels = generator.integers(0, 4, len(words)).tolist() if number >= unlabelled else [-100] * len(words)
        made.append(
            {
                "input_ids": [2, *(token % 20 for token in words)],
                "attention_mask": [1] * (len(words) + 1),
                "word_starts": [-100] + [1] * len(words),
                "labels": [-100, *labels],
                "teacher_input_ids": [2, *(token for token in read for _ in (0, 1)), 3],
                "teacher_attention_mask": [1] * (2 * len(read) + 2),
                "teacher_word_starts": [-100, *([1, 0] * len(read)), -100],
            }
        )
    return datasets.Dataset.from_list(made)


def test_tagging_with_two_tokenizers_meets_at_first_pieces(tmp_path):
    """Soft targets word by word, the cut of a step is nothing, and a cache of one row a word says the same."""
    rows = tagged_twice()
    _, teacher = models("token", "single_label_classification")
    config = LSTMStudentConfig(vocab_size=20, embedding_size=8, hidden_size=6, num_labels=4, dropout=0.0)

    def said(row):
        ids = torch.tensor([row["teacher_input_ids"]])
        starts = torch.tensor(row["teacher_word_starts"]) == 1
        with torch.no_grad():
            return {"teacher_logits": teacher(ids).logits[0, starts].tolist()}

    made = {}
    for name, batch, accumulation in (("live", 8, 1), ("cut", 2, 4), ("cached", 8, 1)):
        torch.manual_seed(0)
        trainer = DistillationTrainer(
            LSTMStudentForTokenClassification(config).double(),
            arguments(tmp_path, batch=batch, accumulation=accumulation),
            teacher_model=None if name == "cached" else teacher,
            train_dataset=rows.map(said) if name == "cached" else rows,
            eval_dataset=rows,
            data_collator=pad,
        )
        if name == "live":
            shared = torch.stack(
                [
                    forward_kl(
                        trainer.model(input_ids=torch.tensor([row["input_ids"]])).logits[0, 1 + word],
                        torch.tensor(said(row)["teacher_logits"][word], dtype=torch.float64),
                        trainer.args.temperature,
                    )
                    for row in rows
                    for word in range(min(row["word_starts"].count(1), row["teacher_word_starts"].count(1)))
                ]
            )
            evaluated = trainer.evaluate()["eval_soft_loss"]
            assert evaluated == pytest.approx(shared.mean().item(), rel=1e-6)
        trainer.train()
        made[name] = trainer
    assert_same(weights(made["live"]), weights(made["cut"]), 1e-8)
    assert_same(weights(made["live"]), weights(made["cached"]), 1e-5)  # the column is in float32


def test_a_cache_of_other_words(tmp_path):
    rows = tagged_twice().map(lambda row: {"teacher_logits": [[0.0] * 4] * (row["teacher_word_starts"].count(1) + 1)})
    config = LSTMStudentConfig(vocab_size=20, embedding_size=8, hidden_size=6, num_labels=4)
    student = LSTMStudentForTokenClassification(config)
    trainer = DistillationTrainer(student, arguments(tmp_path), train_dataset=rows, data_collator=pad)
    with pytest.raises(ValueError, match=r"a sentence of which the teacher reads \d+ words: .* holds one row a word"):
        trainer.train()


def test_evaluation_gathers_no_inner_states(tmp_path):
    trainer = taught(tmp_path, tiny_bert(num_labels=3), matching=[HiddenStateMatching(LAYERS)])
    before = trainer.evaluate()
    trainer.train()
    predicted = trainer.predict(tiny_rows(8))
    assert isinstance(predicted.predictions, np.ndarray)
    assert predicted.predictions.shape == (8, 3)
    assert (
        before["eval_loss"]
        != predicted.metrics["test_loss"]
        == pytest.approx(trainer.evaluate()["eval_loss"], abs=1e-6)
    )


@pytest.mark.parametrize("teacher", [None, "ensemble"])
def test_matching_needs_one_live_teacher(tmp_path, teacher):
    model = None if teacher is None else TeacherEnsemble([tiny_bert(num_labels=3), tiny_bert(num_labels=3)])
    rows = tiny_rows(8).add_column("teacher_logits", [[0.0, 1.0, 2.0]] * 8)
    with pytest.raises(ValueError, match=r"one live teacher's, and there is (none|an ensemble)\. Pass teacher_model"):
        DistillationTrainer(
            tiny_bert(num_labels=3),
            arguments(tmp_path),
            teacher_model=model,
            matching=[HiddenStateMatching(LAYERS)],
            train_dataset=rows,
            data_collator=collate,
        )


def test_two_matchings_of_one_name(tmp_path):
    with pytest.raises(ValueError, match="Two matchings are called hidden_state: give each its own name"):
        taught(tmp_path, tiny_bert(num_labels=3), matching=[HiddenStateMatching({0: 0}), HiddenStateMatching({1: 1})])


def test_attention_of_a_model_that_returns_none(tmp_path):
    trainer = taught(tmp_path, tiny_bert(num_labels=3), matching=[AttentionMatching({1: 1})])
    with pytest.raises(ValueError, match="eager"):
        trainer.train()
    student, teacher = (tiny_bert(seed=seed, num_labels=3, attn_implementation="eager") for seed in (0, 1))
    able = taught(tmp_path, student, teacher, matching=[AttentionMatching({1: 1, -1: -1})])
    able.train()
    assert history(able, "attention_loss")[0] > 0


def test_generation_while_evaluating(tmp_path):
    trainer = build("seq2seq", tmp_path, predict_with_generate=True, generation_max_length=9)
    trainer.model.generation_config = GenerationConfig(
        max_length=9, decoder_start_token_id=2, eos_token_id=2, pad_token_id=0, bos_token_id=1
    )
    told = []
    trainer.compute_metrics = lambda made: told.append(made.predictions.shape) or {"one": 1.0}
    generated = trainer.evaluate()
    assert told[0][0] == 24
    assert told[0][1] <= 9
    quiet = build("seq2seq", tmp_path).evaluate()
    assert generated["eval_loss"] == pytest.approx(quiet["eval_loss"], abs=1e-6)
    assert generated["eval_soft_loss"] == pytest.approx(quiet["eval_soft_loss"], abs=1e-6)


def test_cached_logits_a_position(tmp_path):
    """A causal student learns the same from its teacher and from a column of the teacher's logits."""
    student, teacher = models("causal", "single_label_classification")
    rows = position_labels(tiny_rows(24, unlabelled=9), 50)
    with torch.no_grad():
        said = [teacher(torch.tensor([row["input_ids"]])).logits[0].tolist() for row in rows]
    cached = rows.add_column("teacher_logits", said)
    live = build("causal", tmp_path)
    kept = DistillationTrainer(student, live.args, train_dataset=cached, data_collator=pad)
    kept.train()
    assert_same(outcome(live)["weights"], weights(kept), 1e-6)


def test_cached_top_k_of_a_causal_teacher(tmp_path):
    """With all classes among the top k nothing is lost; with fewer, training runs on the rest's log-sum-exp."""
    student, teacher = models("causal", "single_label_classification")
    rows = position_labels(tiny_rows(24, unlabelled=9), 50)
    live = build("causal", tmp_path, temperature=1.0)
    first = {}
    for k in (50, 8):
        made = {"teacher_top_k_logits": [], "teacher_top_k_ids": [], "teacher_tail": []}
        with torch.no_grad():
            for row in rows:
                logits = teacher(torch.tensor([row["input_ids"]])).logits[0]
                order = logits.argsort(dim=-1, descending=True)
                rest = logits.gather(-1, order[:, k:])
                made["teacher_top_k_logits"].append(logits.gather(-1, order[:, :k]).tolist())
                made["teacher_top_k_ids"].append(order[:, :k].tolist())
                made["teacher_tail"].append(rest.logsumexp(-1).tolist() if k < 50 else [-1e30] * len(logits))
        cached = rows
        for name, values in made.items():
            cached = cached.add_column(name, values)
        student, _ = models("causal", "single_label_classification")
        trainer = DistillationTrainer(student, live.args, train_dataset=cached, data_collator=pad)
        trainer.train()
        first[k] = history(trainer, "soft_loss")
    live.train()
    assert np.allclose(first[50], history(live, "soft_loss"), atol=1e-5)
    assert 0 < first[8][0] < first[50][0]  # merging classes can only lose divergence


def test_positions_that_do_not_line_up(tmp_path):
    student, teacher = models("token", "single_label_classification")
    rows = position_labels(tiny_rows(8), 4)
    both = rows.add_column("teacher_input_ids", [[*row["input_ids"], 5] for row in rows])
    refused = pytest.raises(
        ValueError, match="with two tokenizers the positions of token-classification do not line up"
    )
    with refused:
        DistillationTrainer(student, arguments(tmp_path), teacher_model=teacher, train_dataset=both, data_collator=pad)
    streamed = DistillationTrainer(
        student,
        arguments(tmp_path, max_steps=1, remove_unused_columns=False),
        teacher_model=teacher,
        train_dataset=datasets.IterableDataset.from_generator(lambda: iter(both)),
        data_collator=pad,
    )
    with refused:
        streamed.train()
    alone = {"soft_target_weight": 0.0, "hard_label_weight": 1.0}
    states_only = DistillationTrainer(
        student,
        arguments(tmp_path, **alone),
        teacher_model=teacher,
        matching=[HiddenStateMatching(LAYERS, granularity="sequence")],
        train_dataset=both,
        eval_dataset=both,
        data_collator=pad,
    )
    states_only.train()
    assert "eval_soft_loss" not in states_only.evaluate()


@pytest.mark.parametrize("with_decoder_ids", [False, True])
def test_the_teacher_of_a_translation_is_forced_by_the_target(tmp_path, with_decoder_ids):
    """Whether the collator makes decoder_input_ids or not, the soft loss is that of both models reading the target."""
    student, teacher = models("seq2seq", "single_label_classification")
    rows = position_labels(tiny_rows(8), 50)
    row = next(row for row in rows if -100 not in row["labels"])
    source, labels = torch.tensor([row["input_ids"]]), torch.tensor([[*row["labels"], 2]])
    batch = {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": labels}
    if with_decoder_ids:
        batch["decoder_input_ids"] = student.prepare_decoder_input_ids_from_labels(labels=labels)
    trainer = build("seq2seq", tmp_path, temperature=1.0)
    trainer.data_collator = lambda _: dict(batch)
    with torch.no_grad():
        q, p = (model(input_ids=source, labels=labels).logits.log_softmax(-1) for model in (student, teacher))
    expected = (p.exp() * (p - q)).sum(-1).mean().item()
    one = datasets.Dataset.from_dict({"input_ids": source.tolist()})
    assert trainer.evaluate(one)["eval_soft_loss"] == pytest.approx(expected, abs=1e-8)


def test_prediction_without_labels(tmp_path):
    """A translation without a target can be written, and a causal model can read on its own."""
    rows = tiny_rows(4).remove_columns("labels")
    writes = build("seq2seq", tmp_path, predict_with_generate=True, generation_max_length=5)
    writes.model.generation_config = GenerationConfig(
        max_length=5, decoder_start_token_id=2, eos_token_id=2, pad_token_id=0, bos_token_id=1
    )
    assert writes.predict(rows).predictions.shape == (4, 5)
    with pytest.raises(ValueError, match="set predict_with_generate=True to let the student write"):
        build("seq2seq", tmp_path).predict(rows)
    assert build("causal", tmp_path).predict(rows).predictions.shape[0] == 4


def test_plain_arguments_use_the_defaults(tmp_path):
    trainer = trained(
        tmp_path,
        tiny_bert(num_labels=3),
        tiny_rows(8),
        cls=TrainingArguments,
        trainer_arguments={"teacher_model": tiny_bert(seed=1, num_labels=3)},
    )
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(0.5 * first["hard_loss"] + 0.5 * first["soft_loss"], abs=1e-5)
