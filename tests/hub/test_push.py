"""A push takes along what a user needs and nothing else, and a refused one is told in a line."""

import json
import re
import traceback
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
import torch
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from safetensors.torch import save as safetensors

from hf_distill.cli import main
from hf_distill.hub.push import push
from hf_distill.hub.usage import CARD_END, Usage, addressed

WEIGHTS = safetensors({"weight": torch.zeros(2)})
# The least that is a whole file of its kind.
WHOLE = {
    ".safetensors": WEIGHTS,
    ".json": b'{"model": {}, "model_type": "bert"}',
    ".onnx": b"\x08\x08\x3a\x01x\x42\x02\x10\x11",
    ".py": b"import torch\n",
}


def write(folder, *names, card=b"words"):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        content = card if name == "README.md" else WHOLE.get(Path(name).suffix, b"x")
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "student"
    folder.mkdir()
    return write(folder, "config.json")


@pytest.fixture
def api(monkeypatch):
    """The calls a push makes, recorded."""
    calls = SimpleNamespace(made=[], committed=[], contents={}, deleted=[], there=[])

    def create_repo(self, repo_id, **settings):
        calls.made.append((repo_id, settings))

    def create_commit(self, repo_id, operations, **settings):
        calls.deleted += [each.path_in_repo for each in operations if isinstance(each, CommitOperationDelete)]
        operations = [each for each in operations if isinstance(each, CommitOperationAdd)]
        calls.committed.append((repo_id, [operation.path_in_repo for operation in operations]))
        calls.contents[repo_id] = {
            operation.path_in_repo: operation.path_or_fileobj
            for operation in operations
            if isinstance(operation.path_or_fileobj, bytes)
        }
        return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr(HfApi, "list_repo_files", lambda self, repo_id, repo_type: calls.there)
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
        "model.safetensors.damaged",
        "README.md.edited",
        "optimizer.pt",
    ]
    write(folder, "README.md", *wanted[2:], *left)
    assert push(folder, "me/s", private=True) == "https://hub/commit/1"
    assert api.made == [("me/s", {"private": True, "exist_ok": True})]
    assert api.committed == [("me/s", wanted)]


def test_what_tells_of_earlier_weights_is_deleted_and_nothing_else(folder, api):
    write(folder, "README.md", "model.safetensors", "report.json", "onnx/model.onnx")
    mine = [".gitattributes", "LICENSE", "onnx/notes.md", "recipe.yaml", "more/onnx/model.onnx", "modeling_mine.py"]
    sent = ["README.md", "model.safetensors", "onnx/model.onnx", "report.json"]
    stale = ["onnx/model_quantized.onnx", "report.png"]
    api.there += [*mine, *sent, *stale]
    push(folder, "me/s")
    assert api.deleted == stale


def test_an_unfinished_folder_is_refused_before_anything_is_made(folder, api):
    with pytest.raises(ValueError, match=r"There is no folder .*nowhere"):
        push(folder / "nowhere", "me/s")
    (folder.parent / "run" / "student").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"run is a run: its student is in .*run/student\. Push that\."):
        push(folder.parent / "run", "me/s")
    with pytest.raises(ValueError, match=r"model\.safetensors, README\.md is missing"):
        push(folder, "me/s")
    assert api.made == []


HEAD = "---\ntags:\n- knowledge-distillation\n- hf_distill\n---\n\n# A student\n\n"
USAGE = Usage("text-classification", "student", on_hub=False, example=["student"], trust=True)
CARD = f"{HEAD}{USAGE.block}\n\nFrom the folder `student`:\n\n"
CARD += f'```bash\nhf-distill run recipe.yaml "student"\n```\n\n{CARD_END}'


def test_the_usage_in_the_card_loads_from_the_hub():
    found = addressed(CARD, "me/x")
    assert 'pipeline("text-classification", "me/x", trust_remote_code=True)\nclassify("student", trunc' in found
    assert 'From the folder `student`:\n\n```bash\nhf-distill run recipe.yaml "student"\n```' in found
    # Once more, and for another place.
    assert addressed(found, "me/x") == found
    assert addressed(found, "you/y") == addressed(CARD, "you/y")


OLD = HEAD + '```python\nclassify = pipeline("text-classification", "student")\n```\n'


def test_a_card_of_an_older_version_is_sent_as_it_is_and_told(folder, api, caplog):
    """Its usage could only be changed by guessing where it loads from."""
    for card in (OLD, OLD.replace("- hf_distill\n", ""), OLD.replace("distillation", "x\n- generated_from_trainer")):
        write(folder, "README.md", "model.safetensors", card=card.encode())
        push(folder, "me/s")
        assert api.contents["me/s"]["README.md"] == card.encode()
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "README.md was written by hf_distill 0.1"
    ]


@pytest.mark.parametrize("card", [OLD.replace("- hf_distill\n", ""), OLD, "", "---\ntags"])
def test_cards_of_others_stay_as_they_are(card):
    assert addressed(card, "me/x") == card


def test_what_is_sent_is_not_what_is_on_disk(folder, api):
    finished(folder)
    recipe = (
        "task: t\noutput_dir: /home/me/secret/run\nteacher: {model: some/teacher}\n"
        "distill: {hub_token: hf_x, max_steps: 3}\n"
    )
    (folder.parent / "recipe.yaml").write_text(recipe)
    push(folder, "me/s")
    assert api.contents["me/s"]["README.md"] == addressed(CARD, "me/s").encode()
    sent = yaml.safe_load(api.contents["me/s"]["recipe.yaml"])
    assert sent == {"task": "t", "output_dir": "run", "teacher": {"model": "some/teacher"}, "distill": {"max_steps": 3}}
    assert (folder / "README.md").read_text() == CARD
    assert (folder.parent / "recipe.yaml").read_text() == recipe
    assert not (folder / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("student", "ingredients: [flour, salt]\n"),
        ("student", "just words"),
        ("student", "task: translation\noutput_dir: run\nteacher: {model: some/teacher}\n"),
        ("model", "task: text-classification\noutput_dir: run\nteacher: {model: some/teacher}\n"),
    ],
)
def test_the_recipe_of_something_else_stays(folder, api, name, recipe):
    folder = folder.rename(folder.parent / name)
    write(folder, "README.md", "model.safetensors")
    (folder / "report.json").write_text('{"task": "text-classification"}')
    (folder.parent / "recipe.yaml").write_text(recipe)
    push(folder, "me/s")
    assert "recipe.yaml" not in api.contents["me/s"]


@pytest.mark.parametrize("name", ["README.md", "../recipe.yaml"])
def test_what_is_no_yaml_is_told_in_one_line(folder, api, capsys, name):
    write(folder, "README.md", "model.safetensors")
    (folder / name).write_text("---\ntags: [a\nb: {\n---\n")
    assert main(["push", str(folder), "--repo-id", "me/s"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"hf-distill: .*{name.removeprefix('../')}: expected YAML.* Mend it", line)
    assert api.made == []


def test_a_cache_is_looked_for_before_anything_is_made(folder, api, capsys):
    finished(folder)
    assert main(["push", str(folder), "--repo-id", "me/s", "--with-cache"]) == 1
    assert "Expected the teacher's cache in" in capsys.readouterr().err
    assert api.made == []


def test_the_recipe_says_where_a_student_goes(folder, api, capsys):
    finished(folder)
    recipe = "task: text-classification\noutput_dir: run\nteacher: {model: some/teacher}\n"
    for known in ("", recipe, f"{recipe}push: null\n", f"{recipe}push: {{license: mit}}\n"):
        (folder.parent / "recipe.yaml").write_text(known or "words")
        assert main(["push", str(folder)]) == 1
        assert (
            "has no repository id. Add --repo-id user/name, or push.repo_id to its recipe." in capsys.readouterr().err
        )
    assert api.made == []
    (folder.parent / "recipe.yaml").write_text(f"{recipe}push: {{repo_id: me/said}}\n")
    assert main(["push", str(folder)]) == main(["push", str(folder), "--repo-id", "me/other"]) == 0
    assert [repo_id for repo_id, _ in api.made] == ["me/said", "me/other"]


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

    write(folder, "README.md", "model.safetensors")
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    with pytest.raises(OSError, match="me/s") as caught:
        push(folder, "me/s")
    assert re.fullmatch(line, str(caught.value))


# Whose it is, and in which formats


def finished(folder):
    return write(folder, "README.md", "model.safetensors", card=CARD.encode())


def test_a_name_alone_is_in_the_callers_namespace(folder, api, monkeypatch, capsys):
    monkeypatch.setattr(HfApi, "whoami", lambda self, **options: {"name": "ann"})
    assert main(["push", str(finished(folder)), "--repo-id", "tweets"]) == 0
    assert [repo_id for repo_id, _ in (*api.made, *api.committed)] == ["ann/tweets"] * 2
    assert b'"ann/tweets"' in api.contents["ann/tweets"]["README.md"]


def test_a_name_alone_needs_somebody(folder, api, monkeypatch, capsys):
    def nobody(self, **options):
        raise LocalTokenNotFoundError("five\nlines")

    monkeypatch.setattr(HfApi, "whoami", nobody)
    assert main(["push", str(finished(folder)), "--repo-id", "tweets"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hf-distill: tweets: expected user/name") and "hf auth login" in line
    assert api.made == []
    monkeypatch.setattr(HfApi, "whoami", lambda self, **options: (_ for _ in ()).throw(answered(401)))
    assert main(["push", str(folder), "--repo-id", "tweets"]) == 1
    assert "tweets: the Hub answered 401" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "tf_model.h5",
        "student-q4.gguf",
        "flax_model.msgpack",
        "rust_model.ot",
        "model.onnx",
        "model.fp16.safetensors",
        "model-00001-of-00002.safetensors",
        "old/pytorch_model.bin",
        "adapter_model.safetensors",
    ],
)
def test_a_second_format_is_told(folder, api, caplog, name):
    write(finished(folder), name)
    push(folder, "me/s")
    (record,) = caplog.records
    assert f"{name} will be published beside model.safetensors" in record.getMessage()
    assert name in api.committed[0][1]


def test_what_a_student_has_anyway_is_not_told(folder, api, caplog):
    finished(folder)
    for name in ("onnx/model.onnx", "onnx/model_quantized.onnx", "training_args.bin", "checkpoint-1/pytorch_model.bin"):
        write(folder, name)
    push(folder, "me/s")
    assert not caplog.records


# Nothing private


SECRET = "hf_PlantedPlantedPlanted"


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ReadError(f"https://bucket/x?X-Amz-Signature={SECRET}&a=1 broke"),
        httpx2.ConnectError(f"http://me:{SECRET}@hub/api refused"),
        wrapped(httpx2.ReadError(f"authorization: Bearer {SECRET}")),
        answered(403, **{"X-Error-Message": f"the token {SECRET} may not"}),
    ],
)
@pytest.mark.parametrize("token", [SECRET, None])
def test_no_error_shows_a_token_or_a_signed_address(folder, api, monkeypatch, error, token):
    def create_commit(self, *arguments, **settings):
        raise error

    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    with pytest.raises(OSError, match="me/s") as caught:
        push(finished(folder), "me/s", token=token)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("repo_id", ["../x", "/x", "a/b/c", "a b", "me/x](javascript:1)", "a\0b", "x" * 200, ".", ""])
def test_what_is_no_id_of_a_repository_is_refused(folder, api, repo_id):
    with pytest.raises(ValueError, match="repo_id: expected user/name as the Hub allows it"):
        push(finished(folder), repo_id)
    assert api.made == []


def test_a_config_is_sent_without_folders_of_this_machine(folder, api, tmp_path):
    finished(folder)
    config = {"model_type": "bert", "_name_or_path": f"{tmp_path}/teacher", "text_config": {"note": SECRET}}
    (folder / "config.json").write_text(json.dumps(config))
    push(folder, "me/s")
    sent = json.loads(api.contents["me/s"]["config.json"])
    assert sent == {"model_type": "bert", "_name_or_path": "teacher", "text_config": {"note": "..."}}
    assert json.loads((folder / "config.json").read_text()) == config
    (folder / "config.json").write_text('{"model_type":   "bert"}')
    push(folder, "me/s")
    assert "config.json" not in api.contents["me/s"]  # sent as it is, from its file


def test_a_broken_recipe_shows_no_line_of_itself(folder, api, capsys):
    finished(folder)
    (folder.parent / "recipe.yaml").write_text("hub_token: planted-word\nb: [\nhub_token: planted-word: {\n")
    assert main(["push", str(folder), "--repo-id", "me/s"]) == 1
    told = capsys.readouterr().err
    assert "planted-word" not in told and "recipe.yaml: expected YAML. Line 3, column " in told
