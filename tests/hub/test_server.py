"""Real clients against a Hub in memory: pushes, loads, broken uploads, and what `Trainer` publishes on its way.

A client reads its environment when it imports huggingface_hub, so every client here is a process of its own.
"""

import contextlib
import gc
import io
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard, create_repo, snapshot_download
from safetensors.torch import load as read_safetensors
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback, set_seed

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    cache_teacher_outputs,
)
from hf_distill.cli import main
from hf_distill.hub.push import push
from hf_distill.hub.usage import CARD_END, Usage
from hf_distill.matching.hidden_states import HiddenStateMatching
from tests.hub_server import USER, Hub

STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")
WORDS = "fine great lovely awful bad dull food it place room service staff was".split()
CODE = {"configuration_lstm.py", "modeling_lstm.py"}
TEXTS = ["lovely food", "it was a dull place"]


# What the clients do. These run in the client's process.


def freeze_imports() -> None:
    """As tests/conftest.py does."""
    gc.freeze()


def lstm(seed: int, hidden_size: int) -> LSTMStudentForSequenceClassification:
    set_seed(seed)
    config = LSTMStudentConfig(vocab_size=20, embedding_size=4, hidden_size=hidden_size, num_labels=3, pad_token_id=0)
    return LSTMStudentForSequenceClassification(config).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}, "[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


def write_student(folder: Path) -> list[list[float]]:
    """A finished student, with a few files that are nobody's business; what it says of `TEXTS`."""
    student, reads = lstm(0, 6), tokenizer()
    student.save_pretrained(folder)
    reads.save_pretrained(folder)
    (folder / "report.json").write_text('{"task": "text-classification"}')
    ModelCard("---\nlibrary_name: transformers\n---\n# A student\n").save(folder / "README.md")
    (folder / "_kd_bridge.safetensors").write_bytes(b"projections")
    (folder / "training_args.bin").write_bytes(b"paths")
    with torch.no_grad():
        return student(**reads(TEXTS, padding=True, return_tensors="pt")).logits.tolist()


def rows() -> Dataset:
    return Dataset.from_dict(dict(tokenizer()(TEXTS * 3)))


def write_cache(folder: Path) -> None:
    cache_teacher_outputs(rows(), lstm(1, 8), task="text-classification", output_dir=folder, shard_size=4)


def join_cache(repo_id: str, folder: Path) -> bool:
    """Whether the data set's own way to use it gives what the cache on disk gives."""
    made = cache_teacher_outputs(rows(), lstm(1, 8), task="text-classification", output_dir=folder, shard_size=4)
    snippet = re.search("```python\n(.*?)```", DatasetCard.load(repo_id).text, re.S)[1]
    known = {"rows": rows().select([3, 1, 0, 2])}
    exec(snippet, known)
    return known["rows"].to_list() == made.select([3, 1, 0, 2]).to_list()


def command(*words: str, patient: bool = True) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `hf-distill`; impatient: waits between retries are skipped."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), contextlib.ExitStack() as stack:
        if not patient:
            stack.enter_context(mock.patch("time.sleep"))
        status = main(words)
    return status, out.getvalue(), error.getvalue()


def command_in_child(process_id: str, *words: str) -> int:
    """Exit status of `hf-distill` in a child, whose process id is in a file; minus the signal that ended it."""
    child = os.fork()
    if not child:
        Path(process_id).write_text(str(os.getpid()))
        os._exit(command(*words)[0])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def without_token(*words: str) -> tuple[int, str, str]:
    with mock.patch.dict(os.environ):
        del os.environ["HF_TOKEN"]
        return command(*words)


class WaitForPush(TrainerCallback):
    """Lets each background push end before the next step: which ones meet is then no matter of luck."""

    trainer: Any

    def on_save(self, *_: Any, **__: Any) -> None:
        pushing = self.trainer.push_in_progress
        if pushing is not None:
            pushing.wait_until_done()
            for job in pushing.jobs:
                job.result()


def trainer(folder: Path, **changes: Any) -> DistillationTrainer:
    texts = [" ".join(WORDS[(3 * row + i) % len(WORDS)] for i in range(2 + row % 4)) for row in range(16)]
    rows = Dataset.from_dict({**tokenizer()(texts), "labels": [row % 3 for row in range(16)]})
    settings = {"max_steps": 4, "save_steps": 2, "lr_scheduler_type": "constant", "learning_rate": 1e-2} | changes
    return DistillationTrainer(
        lstm(0, 6),
        DistillationArguments(
            str(folder),
            per_device_train_batch_size=4,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **settings,
        ),
        teacher_model=lstm(1, 8),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer(),
        matching=[HiddenStateMatching({-1: -1})],
    )


def train_and_push(folder: Path, repo_id: str, strategy: str, wait: bool = True, **changes: Any) -> list[list[float]]:
    waits = WaitForPush()
    waits.trainer = teaches = trainer(
        folder, push_to_hub=True, hub_model_id=repo_id, hub_strategy=strategy, hub_always_push=True, **changes
    )
    if wait and strategy != "end":
        teaches.add_callback(waits)
    teaches.train()
    teaches.push_to_hub()
    with torch.no_grad():
        return teaches.model.eval()(**tokenizer()(TEXTS, padding=True, return_tensors="pt")).logits.tolist()


def warnings_of_training(folder: Path, repo_id: str) -> str:
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logging.getLogger("hf_distill.training.publishing").addHandler(handler)
    train_and_push(folder / "student", repo_id, "every_save", wait=False)
    logging.getLogger("hf_distill.training.publishing").removeHandler(handler)
    return heard.getvalue()


def resume(folder: Path, repo_id: str) -> tuple[int, bool]:
    """Train on from what is on the Hub: the steps done at its start, and whether it ends where an unbroken run does."""
    downloaded = snapshot_download(repo_id, allow_patterns="last-checkpoint/*")
    checkpoint = Path(downloaded) / "last-checkpoint"
    resumed = trainer(folder / "resumed", max_steps=6, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    unbroken = trainer(folder / "unbroken", max_steps=6, save_strategy="no")
    unbroken.train()
    pairs = zip(resumed.model.state_dict().items(), unbroken.model.state_dict().items(), strict=True)
    same = all(name == other and torch.equal(left, right) for (name, left), (other, right) in pairs)
    return json.loads((checkpoint / "trainer_state.json").read_text())["global_step"], same


def use_the_rest_of_the_client(folder: Path) -> dict[str, Any]:
    """What other parts of huggingface_hub, transformers and datasets do with a Hub."""
    write_student(folder / "student")
    create_repo("me/rest")
    HfApi().upload_folder(repo_id="me/rest", folder_path=folder / "student", ignore_patterns=["_*"])
    ModelCard("---\nlicense: mit\n---\n# Another card\n").push_to_hub("me/rest")
    rows = Dataset.from_dict({"text": TEXTS, "label": [0, 1]})
    rows.push_to_hub("me/rows")
    api = HfApi()
    return {
        "snapshot": sorted(file.name for file in Path(snapshot_download("me/rest")).iterdir()),
        "card": ModelCard.load("me/rest").text.strip(),
        "rows": load_dataset("me/rows", split="train")["text"][:],
        "sizes": {info.path: info.size for info in api.list_repo_tree("me/rest") if info.path == "README.md"},
        "exists": [api.file_exists("me/rest", "config.json"), api.file_exists("me/rest", "nothing.json")],
        "range": api.parse_safetensors_file_metadata("me/rest", "model.safetensors").metadata,
    }


# The Hub, a client process that has the package, and processes that have not


@pytest.fixture(scope="module")
def hub():
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """Calls a function of this module in a process that knows only our Hub."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hub.environment(tmp_path_factory.mktemp("home")).items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", "1")
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=freeze_imports) as pool:
            yield lambda function, *words, **settings: pool.submit(function, *words, **settings).result(timeout=800)


@pytest.fixture
def student(client, tmp_path):
    folder = tmp_path / "student"
    client(write_student, folder)
    return folder


@pytest.fixture(scope="module")
def load_elsewhere(hub, tmp_path_factory):
    """Gives the logits on `TEXTS`, or the error, of each (repository, revision) where only transformers is installed.

    One process, with a home of its own, answers for all tests of this module.
    """
    script = """
        import json, sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "hf_distill":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Missing())
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        for line in sys.stdin:
            texts, published = json.loads(line)
            found = []
            for name, revision in published:
                from_hub = {"revision": revision, "trust_remote_code": True}
                try:
                    model = AutoModelForSequenceClassification.from_pretrained(name, **from_hub)
                    inputs = AutoTokenizer.from_pretrained(name, **from_hub)(texts, padding=True, return_tensors="pt")
                    found.append(model(**inputs).logits.tolist())
                except Exception as error:
                    found.append(f"{type(error).__name__}: {error}")
            print("found", json.dumps(found), flush=True)
    """
    home = tmp_path_factory.mktemp("elsewhere")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=home,
        env={**os.environ, **hub.environment(home), "OMP_NUM_THREADS": "1"},
    ) as elsewhere:

        def load(*published: tuple[str, str]) -> list[Any]:
            print(json.dumps([TEXTS, published]), file=elsewhere.stdin, flush=True)
            answer = next((line for line in elsewhere.stdout if line.startswith("found ")), None)
            assert answer is not None, "the process ended; its errors are among this one's"
            return json.loads(answer.removeprefix("found "))

        yield load


def assert_logits(found: Any, wanted: list[list[float]]) -> None:
    assert not isinstance(found, str), found
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted))


# hf_distill.hub.push and `hf-distill push`


def test_a_pushed_student_loads_where_the_package_is_missing(hub, client, load_elsewhere, tmp_path):
    said = client(write_student, tmp_path / "student")
    client(push, tmp_path / "student", "me/loads")
    (commit,) = hub.commits("me/loads")
    wanted = {"README.md", "config.json", "model.safetensors", "report.json", "tokenizer.json", "tokenizer_config.json"}
    assert wanted | CODE <= set(commit.files)
    assert not {"_kd_bridge.safetensors", "training_args.bin"} & set(commit.files)
    (loaded,) = load_elsewhere(("me/loads", "main"))
    assert_logits(loaded, said)
    again = client(push, tmp_path / "student", "me/loads")
    assert hub.commits("me/loads") == [commit]
    assert again.endswith(f"me/loads/commit/{commit.oid}")


def test_a_second_push_leaves_no_onnx_file_of_the_first(hub, client, student):
    (student / "onnx").mkdir()
    (student / "onnx" / "model.onnx").write_bytes(b"\x08\x08\x3a\x01x\x42\x02\x10\x11")
    client(push, student, "me/twice")
    assert "onnx/model.onnx" in hub.files("me/twice")
    (student / "onnx" / "model.onnx").unlink()
    client(push, student, "me/twice")
    assert "onnx/model.onnx" not in hub.files("me/twice")
    assert len(hub.commits("me/twice")) == 2
    client(push, student, "me/twice")
    assert len(hub.commits("me/twice")) == 2


def test_what_lies_beside_a_student_goes_along(hub, client, student, tmp_path):
    """The card loads from the repository, the recipe is one that can be shown, and the cache is a data set."""
    usage = Usage("text-classification", "student", on_hub=False, example=["So"]).block
    card = f"---\nlibrary_name: transformers\ntags:\n- hf_distill\n---\n# A student\n{usage}\n{CARD_END}\n"
    ModelCard(card).save(student / "README.md")
    (tmp_path / "recipe.yaml").write_text(
        f"task: text-classification\noutput_dir: {tmp_path}\nteacher: {{model: {student}}}\n"
    )
    client(write_cache, tmp_path / "cache")
    words = ("push", str(student), "--repo-id", "me/whole", "--with-cache")
    code, out, _ = client(command, *words)
    assert code == 0
    files = hub.files("me/whole")
    assert b'pipeline("text-classification", "me/whole")' in files["README.md"]
    sent = f"task: text-classification\noutput_dir: {tmp_path.name}\nteacher:\n  model: student\n"
    assert files["recipe.yaml"].decode() == sent
    commit, cached = out.split()
    assert commit.endswith(hub.commits("me/whole")[0].oid)
    assert cached.endswith("/datasets/me/whole-teacher-outputs")
    assert hub.repositories["dataset", "me/whole-teacher-outputs"].private
    found = hub.files("me/whole-teacher-outputs", "dataset")
    assert json.loads(found["provenance.json"])["options"]["task"] == "text-classification"
    assert "To put the outputs to the same tokenised rows" in found["README.md"].decode()
    assert client(join_cache, "me/whole-teacher-outputs", tmp_path / "cache")
    # A second push makes no commit of the student, and the same data set.
    assert client(command, *words)[0] == 0
    assert len(hub.commits("me/whole")) == 1
    assert hub.files("me/whole-teacher-outputs", "dataset") == found


def test_a_name_alone_takes_all_of_it_to_the_callers_namespace(hub, client, student, tmp_path):
    client(write_cache, tmp_path / "cache")
    code, out, error = client(command, "push", str(student), "--repo-id", "alone", "--with-cache")
    assert code == 0, error
    assert out.count(f"{USER}/alone") == 2
    assert "model.safetensors" in hub.files(f"{USER}/alone")
    card = hub.files(f"{USER}/alone-teacher-outputs", "dataset")["README.md"].decode()
    assert f"https://huggingface.co/{USER}/alone)" in card


@pytest.mark.parametrize(
    ("method", "path", "status", "advice"),
    [
        ("POST", "/datasets/.*/commit/", 403, "the role write"),
        ("POST", "/datasets/.*/commit/", 500, "status.huggingface.co"),
        ("POST", "/datasets/.*/commit/", None, "the connection to the Hub failed"),
    ],
)
def test_a_cache_that_was_refused_can_be_pushed_again(hub, client, student, tmp_path, method, path, status, advice):
    client(write_cache, tmp_path / "cache")
    repo_id = f"me/{tmp_path.name}"
    words = ("push", str(student), "--repo-id", repo_id, "--with-cache")
    # datasets tries a commit again by itself; these failures outlast it.
    hub.plant(method, path, status, times=50)
    code, _, error = client(command, *words, patient=False)
    hub._faults.clear()
    assert code == 1
    last = error.splitlines()[-1]  # before it, datasets shows its progress
    assert last.startswith(f"hf-distill: {repo_id}-teacher-outputs: ")
    assert advice in last
    assert len(hub.commits(repo_id)) == 1
    assert client(command, *words)[0] == 0
    assert len(hub.commits(repo_id)) == 1
    assert client(join_cache, f"{repo_id}-teacher-outputs", tmp_path / "cache")


def test_a_repository_is_private_by_choice(hub, client, student, tmp_path):
    assert client(command, "push", str(student), "--repo-id", "me/hidden")[0] == 0
    assert client(command, "push", str(student), "--repo-id", "me/shown", "--public")[0] == 0
    assert hub.repositories["model", "me/hidden"].private
    assert not hub.repositories["model", "me/shown"].private


@pytest.mark.parametrize(
    ("method", "path", "status", "times", "message", "advice"),
    [
        ("POST", "/commit/", 401, 1, "Invalid credentials in Authorization header", "hf auth login"),
        ("POST", "/commit/", 401, 1, "Invalid username or password.", "hf auth login"),
        ("POST", "/repos/create", 401, 1, "Invalid credentials in Authorization header", "hf auth login"),
        ("POST", "/commit/", 403, 1, "Forbidden", "the role write"),
        ("POST", "/commit/", 409, 1, "Another commit is\nin progress", "is being changed by something else"),
        ("POST", "/commit/", 429, 1, "Slow down", "Wait some minutes"),
        ("POST", "/commit/", 500, 1, "Internal error", "status.huggingface.co"),
        ("POST", "/commit/", None, 1, "", "the connection to the Hub failed"),
        ("PUT", "/lfs/", 500, 6, "Internal error", "status.huggingface.co"),
        ("PUT", "/lfs/", None, 6, "", "the connection to the Hub failed"),
    ],
)
def test_a_broken_push_is_told_in_a_line_and_can_be_repeated(
    hub, client, tmp_path, method, path, status, times, message, advice
):
    hub.blobs.clear()
    client(write_student, tmp_path / "student")
    repo_id = f"me/{tmp_path.name}"
    words = ("push", str(tmp_path / "student"), "--repo-id", repo_id)
    hub.plant(method, path, status, times, message)
    code, out, error = client(command, *words, patient=False)
    assert not hub.unused_faults()
    assert (code, out) == (1, "")
    assert error.startswith(f"hf-distill: {repo_id}: ")
    assert error.count("\n") == 1
    assert str(status or "") in error
    assert " ".join(message.split()) in error
    assert advice in error
    assert ("model", repo_id) not in hub.repositories or not hub.commits(repo_id)
    assert client(command, *words)[0] == 0
    (commit,) = hub.commits(repo_id)
    assert CODE | {"model.safetensors", "README.md"} <= set(commit.files)


@pytest.mark.faults
def test_a_push_that_is_killed_at_any_request_can_be_repeated(hub, client, tmp_path):
    client(write_student, tmp_path / "student")
    process_id = tmp_path / "process_id"

    def push_to(repo_id):
        return client(command_in_child, str(process_id), "push", str(tmp_path / "student"), "--repo-id", repo_id)

    def kill():
        os.kill(int(process_id.read_text()), signal.SIGKILL)

    hub.blobs.clear()
    before = len(hub.requests)
    assert push_to("me/undisturbed") == 0
    number = len(hub.requests) - before
    assert number >= 5
    kinds = set()
    for request in range(1, number + 1):
        hub.blobs.clear()
        hub.interrupt_at(request, kill)
        repo_id, before = f"me/killed-{request}", len(hub.requests)
        assert push_to(repo_id) == -signal.SIGKILL
        method, path = hub.requests[before + request - 1]
        kinds.add((method, path.replace(repo_id, "")))
        assert ("model", repo_id) not in hub.repositories or not hub.commits(repo_id)
        assert push_to(repo_id) == 0
        assert len(hub.commits(repo_id)) == 1
        card = hub.files("me/undisturbed").pop("README.md").replace(b"me/undisturbed", repo_id.encode())
        assert hub.files(repo_id) == hub.files("me/undisturbed") | {"README.md": card}
    assert any(path.endswith("/commit/main") for _, path in kinds)
    assert any(method == "PUT" for method, _ in kinds)


def test_a_short_disturbance_is_waited_out(hub, client, student):
    hub.blobs.clear()
    hub.plant("PUT", "/lfs/", None)
    hub.plant("POST", "/preupload/", 500)
    assert client(command, "push", str(student), "--repo-id", "me/shaken", patient=False)[0] == 0
    assert not hub.unused_faults()
    assert len(hub.commits("me/shaken")) == 1


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, client, student):
    words = ("push", str(student), "--repo-id", "me/lost")
    hub.plant("POST", "/commit/", None, late=True)
    code, _, error = client(command, *words)
    assert code == 1
    assert "the connection to the Hub failed" in error
    code, out, _ = client(command, *words)
    (commit,) = hub.commits("me/lost")
    assert (code, out.strip().rpartition("/")[2]) == (0, commit.oid)


def test_a_card_that_the_hub_would_not_take_is_told(hub, client, student):
    ModelCard("---\nlicense: do what you want\n---\n# A student\n").save(student / "README.md")
    code, _, error = client(command, "push", str(student), "--repo-id", "me/licence")
    assert code == 1
    assert '"license" must be one of the known ones' in error
    assert not hub.commits("me/licence")


def test_a_missing_token_is_told(hub, client, student):
    code, _, error = client(without_token, "push", str(student), "--repo-id", "me/anonymous")
    assert code == 1
    assert "hf auth login" in error
    assert ("model", "me/anonymous") not in hub.repositories


# DistillationTrainer(push_to_hub=True)


@pytest.fixture(scope="module")
def published(hub, client, tmp_path_factory):
    """For each strategy, what the student says that was trained and pushed as `me/<strategy>`."""
    return {
        strategy: client(train_and_push, tmp_path_factory.mktemp("trained") / strategy, f"me/{strategy}", strategy)
        for strategy in STRATEGIES
    }


def test_what_a_trainer_publishes_loads_where_the_package_is_missing(published, load_elsewhere):
    loaded = load_elsewhere(*((f"me/{strategy}", "main") for strategy in STRATEGIES))
    for found, said in zip(loaded, published.values(), strict=True):
        assert_logits(found, said)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_trainer_publishes_no_projections(hub, published, strategy):
    files = hub.files(f"me/{strategy}")
    assert CODE | {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    # A checkpoint to resume from needs the projections: there, and only there, they are published.
    folders = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-2", "checkpoint-4"}}.get(
        strategy, set()
    )
    assert {name.partition("/")[0] for name in files if "_kd_bridge" in name} == folders
    assert {name.partition("/")[0] for name in files if "/" in name} == folders
    for name, content in files.items():
        if name.endswith("model.safetensors"):
            assert not [key for key in read_safetensors(content) if "bridge" in key or "matching" in key], name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_trainer_publishes_neither_its_token_nor_its_paths(hub, client, tmp_path, strategy):
    repo_id = f"me/private-{strategy}"
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "events.machine").write_text("log")
    client(train_and_push, tmp_path, repo_id, strategy, wait=False, hub_token="hf_secret", **best)
    commits = hub.commits(repo_id)
    names = {name for commit in commits for name in commit.files}
    assert not {name for name in names if "training_args" in name or "runs/" in name}
    for commit in commits:
        for name, file in commit.files.items():
            assert b"hf_secret" not in file.content, name
            assert str(tmp_path).encode() not in file.content, name
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    assert str(tmp_path) in state.read_text()  # what is on disk stays as it is
    kept = {"end": 0, "every_save": 0, "checkpoint": 1, "all_checkpoints": 2}
    assert len([name for name in names if name.endswith("trainer_state.json")]) == kept[strategy]


def test_training_goes_on_from_the_last_checkpoint_on_the_hub(client, published, tmp_path):
    assert client(resume, tmp_path, "me/checkpoint") == (4, True)


def test_what_is_published_during_training_loads(hub, published, load_elsewhere):
    commit = next(commit for commit in hub.commits("me/every_save") if commit.title == "Training in progress, step 2")
    (loaded,) = load_elsewhere(("me/every_save", commit.oid))
    assert not isinstance(loaded, str), loaded


def test_every_save_is_published_with_its_own_weights(hub, client, tmp_path):
    client(train_and_push, tmp_path / "all", "me/all", "all_checkpoints", wait=False, save_steps=1)
    saves = [commit for commit in hub.commits("me/all") if "checkpoint" not in commit.title]
    assert [commit.title for commit in saves[:-1]] == [f"Training in progress, step {step}" for step in (1, 2, 3, 4)]
    for step, commit in enumerate(saves[:-1], 1):
        weights = (tmp_path / "all" / f"checkpoint-{step}" / "model.safetensors").read_bytes()
        assert commit.files["model.safetensors"].content == weights


def test_a_failed_push_during_training_is_told(hub, client, tmp_path):
    hub.plant("POST", "/me/warned/commit/", 401)
    said = client(warnings_of_training, tmp_path, "me/warned")
    assert said.startswith("A push during training failed: ")
    assert "401" in said
    assert hub.commits("me/warned")[-1].title == "End of training"


def test_a_trainers_card_tells_the_objective(hub, published):
    card = hub.files("me/end")["README.md"].decode()
    assert "\n- soft_target_weight: 0.5\n" in card
    assert "\nThis model is a student.\n" in card


def push_with_the_card_of_a_report(folder: Path, repo_id: str) -> None:
    usage = Usage("text-classification", "student", on_hub=False, example=["So"]).block
    card = f"---\ntags:\n- hf_distill\n---\n# Measured\n{usage}\n"
    folder.mkdir()
    (folder / "README.md").write_text(card)
    trainer(folder, hub_model_id=repo_id, save_strategy="no").push_to_hub()
    assert (folder / "README.md").read_text() == card


def test_a_trainer_keeps_the_card_of_a_report(hub, client, tmp_path):
    client(push_with_the_card_of_a_report, tmp_path / "student", "me/measured")
    card = hub.files("me/measured")["README.md"].decode()
    assert "# Measured" in card
    assert 'pipeline("text-classification", "me/measured")' in card


# The server itself


def test_the_rest_of_the_client_works_with_this_hub(hub, client, tmp_path):
    found = client(use_the_rest_of_the_client, tmp_path)
    assert {"README.md", "model.safetensors", "tokenizer.json"} <= set(found["snapshot"])
    assert found["card"] == "# Another card"
    assert found["rows"] == TEXTS
    assert found["sizes"] == {"README.md": len(hub.files("me/rest")["README.md"])}
    assert found["exists"] == [True, False]
    assert len(hub.commits("me/rest")) == 2
