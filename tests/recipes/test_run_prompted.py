"""Whole runs with a teacher behind a prompt: without labels, with a few for the test, with labels; asked once."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import BertModel, pipeline

from hf_distill.cli import main
from hf_distill.recipes.recipe import Recipe
from hf_distill.recipes.run import plan_recipe, run_recipe
from tests.recipes.test_run import BAD, FILLER, GOOD, write_teacher
from tests.teachers.serving import TOKENS, characters, language_model, serve, serving
from tests.teachers.test_likelihoods import t5

TEXTS, FEW = 160, 40
INSTRUCTION = "Does the guest like the place?"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class Opinions(serve.ClassifierAnswers):
    """Counts the good and the bad words of a review."""

    def __init__(self, silent=(), fails_after=None, error=None, broken=False):
        self.names, self.limit = ["bad", "good"], 10**9
        self.silent, self.fails_after, self.error, self.broken = silent, fails_after, error, broken
        self.text = ""

    def write(self, scores, request, length, top):
        if self.fails_after is not None:
            self.fails_after -= 1
            if self.fails_after < 0:
                raise self.error
        if self.text in self.silent:
            top = [(-1, word, float(np.log(share))) for word, share in (("I", 0.9), ("Hm", 0.1))]
            return serve.Written("I cannot say", [serve.Token(-1, "I", top[0][2], top)], "stop")
        return super().write(scores, request, length, top)

    def choose(self, scores, choices, request):
        if self.broken:
            return serve.Written('{"class": ', [], "length")
        if self.text in self.silent:
            return serve.Written('{"class": "unsure"}', [], "stop")
        return super().choose(scores, choices, request)

    def _scores(self, text):
        self.text = text
        words = text.split()
        lead = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
        return torch.tensor([-2.0 * lead, 2.0 * lead]).log_softmax(-1)


def write_texts(path: Path, number: int = TEXTS, labels: bool = False, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    texts = []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"][: 1 + labels])
        for _ in range(number):
            good = int(generator.integers(0, 4))
            words = [*generator.choice(GOOD, good), *generator.choice(BAD, 3 - good), *generator.choice(FILLER, 6)]
            texts.append(" ".join(generator.permutation(words)))
            writer.writerow([texts[-1], "good" if good > 1 else "bad"][: 1 + labels])
    return texts


def recipe(folder: Path, url: str | None, **changes) -> Path:
    server = {"url": url, "model": "tiny", "retries": 0, "concurrency": 2}
    content = {
        "task": "text-classification",
        "output_dir": str(folder / "out"),
        "data": {"path": str(folder / "texts.csv"), "test": 10, "validation": 10},
        "teacher": {
            "prompt": {"instruction": INSTRUCTION, "classes": {"bad": "the guest complains", "good": None}},
            **({} if url is None else {"server": server}),
        },
        "student": {"vocab_size": 90, "config": {"embedding_size": 8, "hidden_size": 8}},
        "distill": {"num_train_epochs": 1, "learning_rate": 2.0e-2, "disable_tqdm": True},
        "compare": {"resamples": 50, "controls": False, "detailed_costs": False},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        key, _, inner = key.partition("__")
        if inner:
            content[section][key] = {**content[section][key], inner: value}
        else:
            content[section] = {**content[section], key: value} if key else value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(path: Path, *words: str) -> int:
    return main(["run", str(path), *words])


def ask(path: Path) -> int:
    return run(path, "--only", "cache")


def report_of(folder: Path) -> dict:
    return json.loads((folder / "out" / "report.json").read_text())


def answers_of(folder: Path) -> dict:
    return json.loads((folder / "out" / "cache" / "provenance.json").read_text())["answers"]


@pytest.fixture
def folder(tmp_path):
    write_texts(tmp_path / "texts.csv", FEW)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run without one label in `out`, and the requests that it sent."""
    folder = tmp_path_factory.mktemp("prompted")
    with pytest.MonkeyPatch.context() as patch, serving(Opinions()) as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        write_texts(folder / "texts.csv")
        changes = {
            "data": {"path": str(folder / "texts.csv"), "test": 30, "validation": 30},
            "teacher__price": {"input": 2.0, "output": 8.0},
            "distill__num_train_epochs": 5,
            "distill__learning_rate": 5.0e-2,
            "student": {"kind": "static", "vocab_size": 90, "config": {"embedding_size": 16, "hidden_size": 16}},
            "compare__controls": ["tfidf_on_teacher_soft_labels"],
        }
        assert run(recipe(folder, server.url, **changes)) == 0
        return folder, list(server.requests)


@pytest.mark.served
def test_texts_and_a_server_become_a_student(finished):
    folder, requests = finished
    report = report_of(folder)
    assert report["metrics"] == ["agreement_with_teacher"]
    assert report["models"]["student"]["quality"]["agreement_with_teacher"]["value"] > 0.8
    assert report["models"]["teacher"] == {"quality": {}} and "baseline" not in report["models"]
    assert set(report["controls"]) == {"majority_class", "tfidf_on_teacher_soft_labels"}
    assert set(report["controls_with_teacher"]) == set(report["controls"])  # there are no labels but the teacher's
    assert report["warnings"][0].startswith("No text had a label: models were selected by agreement with the teacher")
    assert "Only 30 texts in the test set" in str(report["warnings"])
    assert report["run"]["curves_of"] == "agreement_with_teacher"
    assert not report["calibration"] and not report["per_class"]  # both are about labels
    answers, cost = report["answers"], report["cost"]
    assert answers["method"] == "letters" and answers["model"] == "tiny"
    assert cost["questions"] == answers["distinct"] == len(requests) == cost["requests"] == TEXTS
    assert cost["price"] == pytest.approx((2 * cost["tokens_in"] + 8 * cost["tokens_out"]) / 1e6)
    assert cost["break_even_texts"]["price"] == TEXTS + 1


@pytest.mark.served
def test_the_card_says_it_in_its_first_line(finished):
    folder, _ = finished
    card = (folder / "out" / "student" / "README.md").read_text()
    first = card.split("\n# ")[1].split("\n\n")[1]
    assert first.startswith("No text had a label: models were selected by agreement with the teacher on 30")
    assert "a letter for each class" in card and "the student is cheaper, by price" in card
    assert "127.0.0.1" not in card and INSTRUCTION not in card
    student = pipeline("text-classification", str(folder / "out" / "student"), trust_remote_code=True)
    assert [each["label"] for each in student(["lovely superb nice place", "awful dull sad staff"])] == ["good", "bad"]


@pytest.mark.served
def test_a_second_run_asks_nothing_and_needs_no_server(finished, monkeypatch):
    folder, _ = finished
    saved = Recipe.load(folder / "out" / "recipe.yaml")
    assert saved.data.label is None and not saved.student.from_teacher
    planned = plan_recipe(saved)
    assert not any(step.runs for step in planned.steps) and f"{TEXTS} of them answered" in str(planned.questions)
    assert run_recipe(saved).answers["distinct"] == TEXTS


def test_the_prompt_and_the_number_of_questions_are_shown_and_nothing_is_sent(folder, capsys):
    with serving(Opinions()) as server:
        assert run(recipe(folder, server.url), "--dry-run") == 0
        shown = capsys.readouterr().out
        assert f"{INSTRUCTION}\n\nA: bad (the guest complains)\nB: good\n" in shown
        assert f"{FEW} texts, {FEW} different ones, 0 of them answered before; at most {8 * FEW} requests" in shown
        assert not server.requests and not (folder / "out").exists()
        assert ask(recipe(folder, server.url)) == 0
        assert f"{FEW} different ones" in capsys.readouterr().err
        assert run(recipe(folder, server.url), "--dry-run") == 0
        assert f"{FEW} of them answered before; at most 0 requests" in capsys.readouterr().out
        assert len(server.requests) == FEW


@pytest.mark.served
def test_a_changed_prompt_asks_again_and_nothing_else_does(folder):
    with serving(Opinions()) as server:
        assert ask(recipe(folder, server.url)) == 0
        same = {"teacher__server__concurrency": 1, "teacher__price": {"input": 1.0}, "distill__num_train_epochs": 2}
        assert ask(recipe(folder, server.url, **same)) == 0
        assert len(server.requests) == FEW
        assert ask(recipe(folder, server.url, data__test=12)) == 0  # other splits, the same texts
        assert len(server.requests) == FEW
        assert ask(recipe(folder, server.url, teacher__prompt__instruction="Is the guest content?")) == 0
        assert len(server.requests) == 2 * FEW
        assert ask(recipe(folder, server.url)) == 0  # the answers to the first prompt are kept
        assert len(server.requests) == 2 * FEW
        ledger = {"teacher__ledger": str(folder / "out" / ".work" / "answers.jsonl")}
        assert ask(recipe(folder, server.url, output_dir=str(folder / "other"), **ledger)) == 0  # another run's
        assert len(server.requests) == 2 * FEW


@pytest.mark.served
def test_a_budget_is_the_number_of_texts_that_are_asked(folder):
    with serving(Opinions()) as server:
        assert ask(recipe(folder, server.url, teacher__budget=29)) == 0
        assert len(server.requests) == 29
        assert ask(recipe(folder, server.url, teacher__budget=35)) == 0  # asks for more, and for none again
        assert len(server.requests) == 35
    with pytest.raises(ValueError, match=r"teacher.budget: 20 texts may be asked about, and 20 are held out"):
        run_recipe(Recipe.load(recipe(folder, "http://127.0.0.1:9/v1", teacher__budget=20)))


@pytest.mark.served
def test_after_a_failure_only_the_missing_texts_are_sent(folder, capsys):
    failing = Opinions(fails_after=25, error=serve.RequestError("The server is overloaded.", 503))
    with serving(failing) as server:
        assert ask(recipe(folder, server.url)) == 1
        told = capsys.readouterr().err
        assert "The server is overloaded" in told and "only the missing texts are sent" in told
        sent = len(server.requests)
        failing.fails_after = None
        assert ask(recipe(folder, server.url)) == 0
        assert sent <= 27 and len(server.requests) == FEW + sent - 25  # 2 in flight


@pytest.mark.served
def test_a_small_labelled_set_is_for_the_test_alone(folder):
    texts = write_texts(folder / "labelled.csv", 30, labels=True, seed=1)
    with (folder / "texts.csv").open("a") as file:
        file.writelines(f"{text.upper()}\n" for text in texts)  # near-duplicates of the labelled ones
    labelled = {"path": str(folder / "labelled.csv")}
    with serving(Opinions(silent=texts[:1])) as server:
        assert run(recipe(folder, server.url, data__labelled_test=labelled)) == 0
    report = report_of(folder)
    assert report["metrics"] == ["accuracy", "macro_f1"] and report["examples"] == 30
    teacher = report["models"]["teacher"]["quality"]["accuracy"]
    assert teacher["value"] == pytest.approx(29 / 30) and teacher["low"] < 0.9  # its answer to one names no class
    assert report["errors"]["teacher"]["value"] == pytest.approx(1 / 30, abs=1e-6)
    assert report["run"]["rows"]["near-duplicates of held-out rows, left out"] == 30
    assert report["run"]["rows"]["fidelity"] == 10 == report["fidelity"]["examples"]
    first, second, *_ = report["warnings"]
    assert first.startswith("Trained without labels: models were selected by agreement with the teacher on 10")
    assert second.startswith("30 test texts are too few to tell the student's accuracy: it lies between")
    assert report["answers"]["without_target"] == 1


@pytest.mark.served
def test_with_labels_everything_is_as_with_any_teacher(folder):
    write_texts(folder / "texts.csv", FEW, labels=True)
    compare = {"resamples": 50, "controls": ["self_training"], "detailed_costs": False}
    changes = {"data__label": "label", "teacher__calibrate": True, "compare": compare, "data__validation": 20}
    with serving(Opinions()) as server:
        assert run(recipe(folder, server.url, **changes)) == 0
    report = report_of(folder)
    assert report["models"]["teacher"]["quality"]["accuracy"]["value"] == 1.0
    assert {"baseline", "student"} <= set(report["models"]) and "self_training" in report["controls"]
    assert "without_labels" not in report["answers"] and "gain_over_best_control" in report["differences"]


@pytest.mark.served
@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_local_language_model_teaches(folder, kind, capsys):
    tokenizer = characters(chat=kind == "causal")
    model = language_model() if kind == "causal" else t5(vocab_size=TOKENS, pad_token_id=0, eos_token_id=1)
    model.save_pretrained(folder / "language_model")
    tokenizer.save_pretrained(folder / "language_model")
    write_teacher(folder / "classifier")
    BertModel.from_pretrained(folder / "classifier").save_pretrained(folder / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "base" / name).write_bytes((folder / "classifier" / name).read_bytes())
    student = {"kind": "transformer", "base": str(folder / "base"), "vocab_size": None, "config": {"layers": [0]}}
    path = recipe(folder, None, teacher__model=str(folder / "language_model"), student=student)
    assert run(path, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert INSTRUCTION in shown and "whole answer (local)" in shown
    if kind == "seq2seq":
        assert ask(path) == 0 and answers_of(folder)["method"] == "answers"
        return
    assert run(path) == 0
    report = report_of(folder)
    assert report["answers"]["method"] == "answers" and report["answers"]["model"] == "language_model"
    assert report["cost"]["requests"] == 0 and report["cost"]["tokens_in"] > FEW
    carried = json.loads((folder / "out" / ".work" / "initial" / "carried.json").read_text())
    assert "bert.embeddings.word_embeddings.weight" in carried and "classifier.weight" not in carried


def test_no_such_server(folder, capsys):
    assert ask(recipe(folder, "http://me:pass-word@127.0.0.1:9/v1")) == 1
    told = capsys.readouterr().err
    assert "tiny at http://127.0.0.1:9/v1/ did not answer" in told and "pass-word" not in told
    assert not (folder / "out" / ".work" / "answers.jsonl").read_bytes()
    assert "pass-word" not in "".join(path.read_text() for path in (folder / "out").rglob("*.json"))


@pytest.mark.served
def test_a_key_is_read_from_the_environment_and_never_shown(folder, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key-0123456789")
    with serving(Opinions(), key="right-key-123456") as server:
        keyed = recipe(folder, server.url, teacher__server__api_key_env="SERVER_KEY")
        assert ask(keyed) == 1
        assert "no variable of the given name is set" in capsys.readouterr().err
        monkeypatch.setenv("SERVER_KEY", "wrong-key-654321")
        assert ask(keyed) == 1
        told = capsys.readouterr().err
        assert "Incorrect API key provided" in told and "wrong-key-654321" not in told
        assert not server.requests
        monkeypatch.setenv("SERVER_KEY", "right-key-123456")
        assert ask(keyed) == 0 and len(server.requests) == FEW
        kept = "".join(path.read_text() for path in (folder / "out").rglob("*") if path.suffix in (".json", ".jsonl"))
        assert "right-key-123456" not in kept + capsys.readouterr().err
        mistaken = recipe(folder, server.url, teacher__server__api_key_env="right-key-123456")
        assert ask(mistaken) == 1 and "right-key-123456" not in capsys.readouterr().err


@pytest.mark.served
def test_a_rate_limit_is_waited_for_and_counted(folder):
    busy = Opinions(fails_after=FEW, error=serve.RequestError("Rate limit reached", 429, "rate_limit_exceeded"))
    first = busy.write

    def once(*arguments):
        if busy.fails_after == 20:
            busy.fails_after = None
            raise busy.error
        return first(*arguments)

    busy.write = once
    with serving(busy) as server:
        assert ask(recipe(folder, server.url, teacher__server__retries=3)) == 0
    counts = answers_of(folder)["counts"]
    assert (counts["requests"], counts["retries"]) == (FEW, 1)


@pytest.mark.served
@pytest.mark.parametrize(("broken", "method", "per_text"), [(False, "structured", 4), (True, "hard", 1)])
def test_models_without_log_probabilities(folder, broken, method, per_text):
    silent = (folder / "texts.csv").read_text().splitlines()[1:][:3]
    with serving(Opinions(silent=silent, broken=broken), with_logprobs=False) as server:
        assert ask(recipe(folder, server.url, teacher__prompt__samples=4)) == 0
    answers = answers_of(folder)
    assert answers["method"] == method and answers["counts"]["samples"] == per_text * FEW
    assert "Not available: letters: it returns no log-probabilities" in str(answers["notes"])
    assert answers["counts"]["without_target"] == 3


@pytest.mark.served
def test_answers_that_are_never_a_class(folder, capsys):
    texts = (folder / "texts.csv").read_text().splitlines()[1:]
    with serving(Opinions(silent=texts), with_logprobs=False) as server:
        assert ask(recipe(folder, server.url)) == 1
    assert "That leaves no target: change the instruction" in capsys.readouterr().err


@pytest.mark.served
def test_a_prompt_that_is_too_long_is_told_before_any_other(folder, capsys):
    with (folder / "texts.csv").open("a") as file:
        file.write("very " * 200 + "long\n")
    with serving(serve.CausalAnswers(language_model(), characters())) as server:
        assert ask(recipe(folder, server.url)) == 1
        assert len(server.requests) == 1
    assert "maximum context length is 700 tokens" in capsys.readouterr().err
    language_model().save_pretrained(folder / "language_model")
    characters().save_pretrained(folder / "language_model")
    assert ask(recipe(folder, None, teacher__model=str(folder / "language_model"))) == 1
    assert "prompts are longer than the 700 tokens" in capsys.readouterr().err
    assert not (folder / "out" / ".work" / "answers.jsonl").read_bytes()


def test_an_encoder_is_no_language_model(folder, capsys):
    write_teacher(folder / "classifier")
    assert ask(recipe(folder, None, teacher__model=str(folder / "classifier"))) == 1
    told = capsys.readouterr().err
    assert "has no weights for cls.predictions" in told and "they would be random numbers" in told
    assert not (folder / "out" / ".work" / "answers.jsonl").exists()


SERVER = {"url": "http://127.0.0.1:9/v1", "model": "tiny"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher__fine_tune": {"num_train_epochs": 1}}, "teacher.fine_tune: cannot go with teacher.prompt"),
        ({"teacher__cross_fit": 3}, "teacher.cross_fit: cannot go with teacher.prompt"),
        ({"teacher__label_map": {"bad": "good"}}, "teacher.label_map: cannot go with teacher.prompt"),
        ({"teacher__model": "some/model"}, "teacher.model: the teacher is on a server"),
        ({"teacher": {"model": "x", "server": SERVER}}, "teacher.server: is of a teacher behind a prompt"),
        ({"teacher": {"model": "x", "budget": 5}}, "teacher.budget: is of a teacher behind a prompt"),
        ({"teacher": {"prompt": {"classes": ["a", "b"]}}}, "The recipe lacks the key 'teacher.model'"),
        ({"teacher__prompt__classes": ["good"]}, "teacher.prompt: A prompt needs at least two classes"),
        ({"teacher__prompt__template": "Text"}, "teacher.prompt: template: expected a text with {text} once"),
        ({"teacher__prompt__examples": [["fine", "fair"]]}, "teacher.prompt: examples: there is no class 'fair'"),
        ({"teacher__prompt__method": "answers"}, "teacher.prompt.method: of a server expected one of letters"),
        ({"teacher__server__url": "localhost:8000"}, "teacher.server.url: expected the address"),
        ({"teacher__server__api_key": "sk-0123456789abcdefgh"}, "unknown key 'teacher.server.api_key'"),
        ({"teacher__budget": 0}, "teacher.budget: expected at least 1, got 0"),
        ({"task": "token-classification"}, "is for text-classification, .* see hf_distill.cache_span_outputs"),
        ({"data__text": ["text", "other"]}, "teacher.prompt: asks for one class of one text"),
        ({"data__label": ["a", "b"]}, "teacher.prompt: asks for one class of one text"),
        ({"data__labels": ["good", "bad"]}, "data.labels: expected the classes of teacher.prompt in their order"),
        ({"data__fidelity": 5}, "data.fidelity: cannot go with teacher.prompt without labels"),
        ({"data__augment": {"texts": 5}}, "data.augment: cannot go with teacher.prompt"),
        ({"teacher__calibrate": True}, "teacher.calibrate: cannot go with teacher.prompt without labels"),
        ({"cascade": {"defer": 0.1}}, "cascade: cannot go with teacher.prompt"),
        ({"teacher__floor": 0.5}, "teacher.floor: there are no labels"),
        ({"compare__metrics": ["accuracy"]}, "compare.metrics: without labels there is nothing but agreement"),
        ({"compare__test_sets": {"x": {"label": "y"}}}, "compare.test_sets: without labels quality is agreement"),
        ({"distill__hard_label_weight": 0.5}, "distill.hard_label_weight: there are no labels to learn from"),
        ({"distill__temperature": 2.0}, "distill.temperature: expected 1 with teacher.server, got 2.0"),
        (
            {"distill__matching": [{"kind": "hidden_state", "layers": {-1: -1}}]},
            "distill.matching .stage 0.: a teacher",
        ),
        ({"student__kind": "transformer"}, "student.kind: transformer: a teacher behind a prompt gives its student"),
        ({"student__vocab_size": None}, "student.vocab_size: null: a teacher behind a prompt gives its student"),
        ({"student__from_teacher": True}, "student.from_teacher: true: a teacher behind a prompt gives its student"),
        ({"data__label": "label", "data__labelled_test": {"path": "x"}}, "data.labelled_test: with data.label"),
        ({"teacher": {"model": "x"}, "data__label": None}, "data.label: null: runs without labels need a teacher"),
        ({"teacher": {"model": "x"}, "student__base": "y"}, "student.base: is for a teacher behind a prompt"),
    ],
)
def test_what_cannot_go_together_is_told_before_anything_is_read(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        Recipe.load(recipe(tmp_path, SERVER["url"], **changes))
    assert "sk-0123456789" not in str(caught.value)
