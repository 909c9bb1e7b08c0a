"""What a training shows, and where trackers write."""

import os
import sys

import pytest
from transformers import PrinterCallback, ProgressCallback

from hf_distill.recipes.progress import TrainingBar, shown, trackers_in
from hf_distill.training.arguments import DistillationArguments
from hf_distill.training.trainer import DistillationTrainer
from tests.conftest import collate, tiny_bert, tiny_rows


@pytest.fixture
def trainer(tmp_path):
    def of(**settings):
        arguments = DistillationArguments(
            str(tmp_path / "out"),
            max_steps=4,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=2,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
            **settings,
        )
        rows = tiny_rows(16)
        student, teacher = tiny_bert(num_labels=3), tiny_bert(1, num_labels=3)
        return DistillationTrainer(
            student, arguments, teacher_model=teacher, train_dataset=rows, eval_dataset=rows, data_collator=collate
        )

    return of


def test_a_bar_with_the_name_the_steps_and_what_was_measured(trainer, capfd):
    made = trainer(disable_tqdm=False)
    with shown(made, "student, stage 1 of 2", "eval_loss"):
        made.train()
    told = capfd.readouterr()
    last = told.err.split("\r")[-1]
    assert last.startswith("student, stage 1 of 2: 100%") and "4/4" in last and "loss=" in last
    assert told.out == "", "no dictionaries of the log"
    assert not any(isinstance(each, PrinterCallback | ProgressCallback) for each in made.callback_handler.callbacks)


def test_no_bar_where_none_is_wanted(trainer, capfd):
    made = trainer(disable_tqdm=True)
    with shown(made, "student", "eval_loss"):
        made.train()
    assert capfd.readouterr() == ("", "")


def test_a_bar_is_closed_where_a_training_fails(trainer, capfd):
    made = trainer(disable_tqdm=False)
    with pytest.raises(KeyboardInterrupt), shown(made, "student", "eval_loss"):
        (bar,) = (each for each in made.callback_handler.callbacks if isinstance(each, TrainingBar))
        bar.on_train_begin(made.args, made.state, made.control)
        raise KeyboardInterrupt
    assert bar._bar is None
    bar.close()


def test_trackers_write_to_the_folder_of_the_run(tmp_path, monkeypatch):
    for name in ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_DIR", "mine")
    runs = tmp_path / "runs"
    with trackers_in(runs, "distill/student-0"):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(runs / "distill" / "student-0")
        assert os.environ["TRACKIO_DIR"] == str(runs / "trackio")
        assert os.environ["WANDB_DIR"] == "mine"
        assert (runs / "distill" / "student-0").is_dir()
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ and os.environ["WANDB_DIR"] == "mine"


SUMMARY_WRITER = """
from pathlib import Path

class SummaryWriter:
    def __init__(self, log_dir):
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        self.file = (Path(log_dir) / "events").open("a")

    def add_text(self, *text): pass
    def add_scalar(self, name, value, step): self.file.write(f"{name}\\n")
    def flush(self): self.file.flush()
    def close(self): self.file.close()
"""


def test_logs_of_tensorboard_survive_a_run(tmp_path, monkeypatch):
    from hf_distill.recipes.run import run_recipe
    from tests.recipes.test_run import recipe, write_reviews, write_teacher

    (tmp_path / "packages" / "tensorboardX").mkdir(parents=True)
    (tmp_path / "packages" / "tensorboardX" / "__init__.py").write_text(SUMMARY_WRITER)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    write_reviews(tmp_path / "reviews.csv", 200)
    write_teacher(tmp_path / "teacher")
    brief = {"max_steps": 2, "logging_steps": 1, "report_to": "tensorboard", "disable_tqdm": True}
    data = {"path": str(tmp_path / "reviews.csv"), "labels": ["bad", "good"], "test": 20, "validation": 10}
    teacher = {"model": str(tmp_path / "teacher"), "fine_tune": brief}
    run_recipe(recipe(tmp_path, teacher=teacher, distill=brief, data=data), only="distill")
    sys.modules.pop("tensorboardX", None)
    runs = tmp_path / "out" / "runs"
    for folder in ("teacher/teacher", "distill/student-0"):
        (events,) = (runs / folder).glob("events*")  # of the real writer too, where that is installed
        assert b"train/loss" in events.read_bytes()
    assert not list((tmp_path / "out" / ".work").glob("student-0"))
