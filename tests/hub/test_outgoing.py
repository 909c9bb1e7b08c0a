"""A push reads every file before it sends one: what was cut is named, and no link fetches anything from elsewhere."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from huggingface_hub import HfApi, constants

from hf_distill.hub.cache import check_cache
from hf_distill.hub.outgoing import check_whole, fault_of, files_in, left_by_run
from hf_distill.hub.push import NOT_PUSHED, push, recipe_of
from hf_distill.recipes.workspace import Workspace
from hf_distill.reports.card import model_card
from hf_distill.reports.report import Report
from hf_distill.space.build import push_space, write_space
from tests.space.conftest import finished_run

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200)) + b"\x00\x00\x00\x00IEND\xaeB`\x82"
TEMPLATE = "{% for message in messages %}{% generation %}{{ message.content }}{% endgeneration %}{% endfor %}"


def varint(number):
    made = b""
    while number > 127:
        made, number = made + bytes([number & 127 | 128]), number >> 7
    return made + bytes([number])


def field(number, content):
    """A field of protobuf: bytes, or a whole number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


GRAPH = field(1, 8) + field(2, b"pytorch") + field(7, bytes(1000)) + field(8, field(2, 17))
PIECES = b"".join(field(1, field(1, b"word") + field(3, 1)) for _ in range(40)) + field(2, bytes(50)) + field(3, b"nmt")


@pytest.fixture
def api(monkeypatch):
    """Fails the test where a push reaches the Hub."""
    calls = []
    for name in ("create_repo", "create_commit", "list_repo_files", "whoami"):
        monkeypatch.setattr(HfApi, name, lambda self, *_, name=name, **__: calls.append(name) or [])
    return calls


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The finished student of a run, with files of all kinds, and no record of the run."""
    folder = finished_run(tmp_path_factory.mktemp("made")) / "student"
    (folder / "training_args.bin").unlink()
    report = Report.load(folder)
    report.models["baseline"] = report.models["student"]
    environment = {
        **{"device": "cpu", "processor": "p", "threads": 1, "torch": "2", "transformers": "5"},
        **{"calls_timed": 1, "texts_timed": 1, "timing": "in turns"},
    }
    card = replace(report, environment=environment, ratios={"smaller": 2.0, "faster": 2.0})
    for name, content in {
        "report.png": PNG,
        "onnx/model.onnx": GRAPH,
        "source.spm": PIECES,
        "tokenizer.model": PIECES,
        "vocab.txt": b"[PADDED]\nfine\ngreat\nlovely\n",
        "merges.txt": b"ab cd\nab c\nabc def\n",
        "chat_template.jinja": TEMPLATE.encode(),
        "generation_config.json": b'{"max_new_tokens": 20}',
        "notes.yaml": b"a: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n",
        "rows.jsonl": b'{"a": 1}\n{"a": 2}\n{"a": 3}\n',
        "LICENSE": b"all rights",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    model_card(card, folder, student_name="me/reviews", teacher="user/base", license="mit")
    return folder.parent


@pytest.fixture
def student(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out") / "student"


NAMES = (
    *("README.md", "chat_template.jinja", "config.json", "configuration_lstm.py", "generation_config.json"),
    *("merges.txt", "model.safetensors", "modeling_lstm.py", "notes.yaml", "onnx/model.onnx", "report.json"),
    *("report.png", "rows.jsonl", "source.spm", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    *("vocab.txt", "LICENSE"),
)
# Whose half may be a whole file of its kind; the record of the run tells.
ANYTHING = ("LICENSE",)


def test_a_whole_student_is_let_pass(student, api):
    assert set(files_in(student, NOT_PUSHED)) == set(NAMES)
    check_whole(files_in(student, NOT_PUSHED))
    api.clear()
    with pytest.raises(AttributeError):  # the answer of create_commit, which is none here
        push(student, "me/s")
    assert api == ["create_repo", "list_repo_files", "create_commit"]


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_file_is_named_and_nothing_is_sent(student, api, name):
    content = (student / name).read_bytes()
    for share in (0.0, 0.25, 0.5, 0.9):
        (student / name).write_bytes(content[: int(share * len(content))])
        if name in ANYTHING and share:
            continue
        with pytest.raises(ValueError, match=rf"Nothing was sent: .*{name}") as caught:
            push(student, "me/s")
        assert "\n" not in str(caught.value)
    assert api == []


def test_several_are_named_together(student, api):
    for name in ("config.json", "tokenizer.json"):
        (student / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"config\.json is empty; tokenizer\.json is empty\. Write them again"):
        push(student, "me/s")


@pytest.mark.parametrize("name", ["modeling_lstm.py", "LICENSE", "vocab.txt", "onnx/model.onnx"])
def test_the_record_of_the_run_tells_what_no_file_tells(student, api, name):
    """Cut between two classes or two lines, a file looks whole."""
    run = student.parent
    Workspace(run).finish("distill", {}, 1, ["student/**/*"], seconds=1.0, counts={}, peak_memory_bytes=1)
    assert set(left_by_run(student)) >= set(NAMES) - {"README.md"}
    check_whole(files_in(student, NOT_PUSHED), left_by_run(student))
    (student / name).write_bytes((student / name).read_bytes() + b"\n")
    with pytest.raises(ValueError, match=rf"{name} is not the file that the run left: [\d,]+ bytes then"):
        push(student, "me/s")
    assert api == []


def test_a_record_of_another_version_is_no_record(student):
    (student.parent / ".work").mkdir()
    for content in (
        "",
        "{",
        "[]",
        '{"steps": 1}',
        '{"steps": {"distill": {}}}',
        '{"steps": {"a": {"files": {"x": 3}}}}',
    ):
        (student.parent / ".work" / "record.json").write_text(content)
        assert left_by_run(student) == {}


def test_code_that_a_config_names_is_there(student, api):
    """A file that was cut at the end of a class is Python still."""
    code = (student / "modeling_lstm.py").read_text()
    (student / "modeling_lstm.py").write_text(code[: code.index("class LSTMStudentForSequenceClassification")])
    with pytest.raises(ValueError, match=r"modeling_lstm\.py was cut: it lacks LSTMStudentForSequenceClassification"):
        push(student, "me/s")
    (student / "modeling_lstm.py").write_text(code)
    (student / "configuration_lstm.py").write_text("import torch\n")
    with pytest.raises(ValueError, match=r"configuration_lstm\.py was cut: it lacks LSTMStudentConfig"):
        push(student, "me/s")
    (student / "configuration_lstm.py").unlink()
    with pytest.raises(ValueError, match=r"configuration_lstm\.py is missing, from which LSTMStudentConfig"):
        push(student, "me/s")


def test_files_of_other_formats_are_let_pass(tmp_path):
    for name, content in {
        "tokenizer.model": b"IQ== 0\nIg== 1\n",  # tiktoken's
        "pytorch_model.bin": b"\x80\x02}q\x00.",  # torch's format before archives
        "__init__.py": b"",
        "image.webp": b"x",
        "README.txt": b"words without an end",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert fault_of(name, tmp_path / name) is None, name
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    assert fault_of("a.npz", tmp_path / "a.npz") is None
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert fault_of("a.npz", tmp_path / "a.npz") == "was cut"


def test_a_recipe_that_was_cut_is_named(student, api):
    run = student.parent
    path = run / "recipe.yaml"
    path.write_text("task: a\ndata: {path: x}\nteacher: {model: y}\noutput_dir: z\nseed: 0\n")
    Workspace(run).finish("distill", {}, 1, ["student/*"], seconds=1.0, counts={}, peak_memory_bytes=1)
    content = path.read_text()
    for share in (0.0, 0.5, 0.9):
        path.write_text(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=r"recipe\.yaml was cut, or is not|recipe\.yaml: expected YAML"):
            push(student, "me/s")
    assert api == []
    path.unlink()
    assert recipe_of(student) is None


# Links


def links(tmp_path, student):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "id_rsa").write_text("-----BEGIN")
    (secret / "more.txt").write_text("more")
    yield "notes.txt", secret / "id_rsa"
    yield "notes.txt", os.path.relpath(secret / "id_rsa", student)
    yield "notes", secret
    yield "onnx/notes.txt", secret / "id_rsa"
    yield "notes.txt", student / "nowhere"
    yield "notes.txt", "/dev/null"
    yield "again", student / "onnx"
    yield "model.safetensors", secret / "more.txt"


def test_a_push_follows_no_link_out_of_the_folder(student, api, tmp_path):
    for name, target in list(links(tmp_path, student)):
        path = student / name
        kept = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        with pytest.raises(ValueError, match=rf"{name} is a link to .*Put the file itself in its place"):
            push(student, "me/s")
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)
    assert api == []


def test_links_within_the_folder_and_of_what_stays_are_let_pass(student, tmp_path):
    (student / "copy.json").symlink_to("config.json")
    (student / "runs").mkdir()
    (student / "runs" / "log").symlink_to("/dev/null")
    (student / "checkpoint-3").symlink_to(tmp_path)
    (student / ".cache").symlink_to(tmp_path)
    assert files_in(student, NOT_PUSHED)["copy.json"].read_text() == (student / "config.json").read_text()


def test_a_snapshot_of_the_hubs_cache_is_links(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "x").write_text("{}")
    (tmp_path / "other").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/x")
    assert set(files_in(snapshot)) == {"config.json"}
    (snapshot / "more.json").symlink_to("../../../other")
    with pytest.raises(ValueError, match=r"more\.json is a link"):
        files_in(snapshot)


def test_the_recipe_beside_a_student_is_no_link(student, api, tmp_path):
    (tmp_path / "elsewhere.yaml").write_text("task: a\noutput_dir: b\nteacher: {}\n")
    (student.parent / "recipe.yaml").unlink()
    (student.parent / "recipe.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(ValueError, match=r"recipe\.yaml is a link"):
        push(student, "me/s")
    assert api == []


def test_a_cache_that_was_cut_or_leads_elsewhere_stays(student, tmp_path):
    cache = student.parent / "cache"
    cache.mkdir()
    end = b"\xff\xff\xff\xff\x00\x00\x00\x00"
    (cache / "shard-00000.arrow").write_bytes(b"rows" * 9 + end)
    (cache / "provenance.json").write_text(json.dumps({"columns": ["input_ids"]}))
    assert check_cache(student) == cache.resolve()
    for name, content in (("shard-00000.arrow", b"rows" * 9), ("provenance.json", b'{"colu'), ("provenance.json", b"")):
        kept = (cache / name).read_bytes()
        (cache / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"Nothing was sent: {name}"):
            check_cache(student)
        (cache / name).write_bytes(kept)
    (cache / "shard-00001.arrow").symlink_to(tmp_path / "other.arrow")
    with pytest.raises(ValueError, match=r"shard-00001\.arrow is a link"):
        check_cache(student)


# The Space


def test_every_file_of_a_space_is_read_before_it_is_sent(made, tmp_path, api):
    space = write_space(made, tmp_path / "space")
    for name in sorted(set(files_in(space)) - {f"student/{name}" for name in ANYTHING}):
        content = (space / name).read_bytes()
        for share in (0.0, 0.5):
            (space / name).write_bytes(content[: int(share * len(content))])
            with pytest.raises(ValueError, match=rf"Nothing was sent: .*{name}|space\.json is missing"):
                push_space(space, "me/app")
        (space / name).write_bytes(content)
    assert api == []
    for name in ("app.py", "requirements.txt"):
        (space / name).rename(tmp_path / name)
        with pytest.raises(ValueError, match=rf"is not a whole Space: {name} is missing"):
            push_space(space, "me/app")
        (tmp_path / name).rename(space / name)
    (space / "student" / "notes.txt").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.txt is a link"):
        push_space(space, "me/app")
    assert api == []
