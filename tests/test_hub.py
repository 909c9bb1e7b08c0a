"""A push takes along what a user needs and nothing else, and a refused one is told in a line."""

import re
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hf_distill import hub


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def api(monkeypatch):
    """The two calls a push makes, recorded."""
    calls = SimpleNamespace(made=[], committed=[])

    def create_repo(self, repo_id, **settings):
        calls.made.append((repo_id, settings))

    def create_commit(self, repo_id, operations, **settings):
        calls.committed.append((repo_id, [operation.path_in_repo for operation in operations]))
        return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    return calls


def test_a_push_is_one_commit_of_what_a_user_needs(folder, api):
    wanted = ["README.md", "config.json", "model.safetensors", "modeling_lstm.py", "onnx/model.onnx", "tokenizer.json"]
    left = [
        "_bridge.safetensors",
        ".secret",
        "onnx/_draft.onnx",
        "__pycache__/modeling_lstm.pyc",
        "checkpoint-10/model.safetensors",
        "last-checkpoint/model.safetensors",
        "cache/data-0.arrow",
        "runs/events.machine",
        "training_args.bin",
        "optimizer.pt",
    ]
    for name in ["README.md", *wanted[2:], *left]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert hub.push(folder, "me/s", private=True) == "https://hub/commit/1"
    assert api.made == [("me/s", {"private": True, "exist_ok": True})]
    assert api.committed == [("me/s", wanted)]


def test_an_unfinished_folder_is_refused_before_anything_is_made(folder, api):
    with pytest.raises(ValueError, match=r"model\.safetensors, README\.md is missing"):
        hub.push(folder, "me/s")
    assert api.made == []


def answered(status, **headers):
    response = httpx2.Response(status, headers=headers, request=httpx2.Request("POST", "https://hub/api/commit"))
    return HfHubHTTPError("five\nlines", response=response)


def wrapped(error):
    """As huggingface_hub hands on the error of one file."""
    failed = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    failed.__cause__ = error
    return failed


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (answered(401), r"me/s: the Hub answered 401: the token is missing, wrong or expired\. Log in .*HF_TOKEN\."),
        (answered(403, **{"X-Error-Message": "No"}), r"me/s: the Hub answered 403 \(No\): the token may not .*\."),
        (answered(418), r"me/s: the Hub answered 418\."),
        (answered(503), r"me/s: the Hub answered 503: an error of the Hub, .*"),
        (wrapped(answered(429)), r"me/s: the Hub answered 429: too many requests\. .*"),
        (httpx2.ReadError("cut\noff"), r"me/s: the connection to the Hub failed \(cut off\)\. Push again: .*"),
        (wrapped(httpx2.ReadError("")), r"me/s: the connection to the Hub failed \(ReadError\)\. Push again: .*"),
    ],
)
def test_a_refused_push_is_told_in_one_line(folder, api, monkeypatch, error, line):
    def create_commit(self, *arguments, **settings):
        raise error

    for name in ("README.md", "model.safetensors"):
        (folder / name).write_text("x")
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    with pytest.raises(OSError, match="me/s") as caught:
        hub.push(folder, "me/s")
    assert re.fullmatch(line, str(caught.value))
