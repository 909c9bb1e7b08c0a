"""The record of a run: what counts as done, what changed, and which files are not what a step left."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from hf_distill.recipes.workspace import CARD, Workspace, named, write_text

INPUTS = {"distill.temperature": 2.0, "rows.train": "0" * 32}


@pytest.fixture
def done(tmp_path):
    """A folder in which the step `distill` left two files."""
    workspace = Workspace(tmp_path)
    with workspace.replacing("student") as folder:
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "README.md").write_text("card")
    workspace.finish("distill", INPUTS, 1, ["student/*"], seconds=1.0)
    return tmp_path


def test_a_step_is_done_once_its_record_is_there(done):
    assert Workspace(done).changes("distill", INPUTS, 1) == []
    assert Workspace(done).damaged("distill") == []
    assert Workspace(done).changes("cache", INPUTS, 1) is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"distill.temperature": 4.0}, "distill.temperature 2.0 → 4.0"),
        ({"rows.train": "1" * 32}, "rows.train 00000000 → 11111111"),
        ({"seed": 1}, "seed not set → 1"),
    ],
)
def test_what_changed_is_named(done, changed, told):
    assert Workspace(done).changes("distill", INPUTS | changed, 1) == [told]


def test_a_missing_input_and_a_new_revision_are_named(done):
    assert Workspace(done).changes("distill", {"rows.train": "0" * 32}, 2) == [
        "its code 1 → 2",
        "distill.temperature 2.0 → not set",
    ]


def test_a_touched_file_is_the_same_file(done):
    os.utime(done / "student" / "model.safetensors")
    assert Workspace(done).damaged("distill") == []


@pytest.mark.parametrize("content", [b"", b"wei", b"WEIGHTS", None])
def test_a_file_that_is_not_what_the_step_left(done, content):
    path = done / "student" / "model.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    assert Workspace(done).damaged("distill") == [path]


def test_the_same_size_and_time_is_noticed_by_reading(done):
    path = done / "student" / "model.safetensors"
    state = path.stat()
    path.write_bytes(b"weighty")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert Workspace(done).damaged("distill") == []
    assert Workspace(done).damaged("distill", verify=True) == [path]


def test_damaged_files_are_set_aside_and_outlive_the_next_result(done):
    workspace = Workspace(done)
    path = done / "student" / "model.safetensors"
    path.write_bytes(b"cut")
    assert workspace.move_aside(path, ".damaged").read_bytes() == b"cut"
    path.write_bytes(b"again")
    assert workspace.move_aside(path, ".damaged").name == "model.safetensors.damaged.2"
    with workspace.replacing("student") as folder:
        (folder / "model.safetensors").write_bytes(b"weights")
    assert (done / "student" / "model.safetensors.damaged").read_bytes() == b"cut"
    workspace.finish("distill", INPUTS, 1, ["student/*"])
    assert list(workspace.steps["distill"]["files"]) == ["student/model.safetensors"]


def test_a_person_may_edit_the_card(done):
    (done / CARD).write_text("my own words")
    workspace = Workspace(done)
    assert workspace.damaged("distill") == []
    written = workspace.steps["distill"]["files"][CARD]
    assert workspace.edited() == {CARD: written}
    workspace.finish("card", {}, 1, [CARD], keep=workspace.edited())
    assert Workspace(done).edited() == {CARD: written}, "it counts as edited for ever"


def test_a_record_that_was_cut_falls_back_to_the_one_before(done):
    workspace = Workspace(done)
    workspace.finish("controls", {}, 1, [])
    path = done / ".work" / "record.json"
    path.write_text(path.read_text()[:50])
    again = Workspace(done)
    assert again.changes("distill", INPUTS, 1) == [] and again.changes("controls", {}, 1) is None
    assert again.is_ours and (done / ".work" / "record.json.damaged").exists()


def test_a_record_of_something_else_is_refused(tmp_path):
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "record.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match=r"expected the record of a run of this version .* got something else"):
        Workspace(tmp_path)


def test_a_run_of_an_older_version_is_told_and_kept(tmp_path):
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "steps.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a run of an older version of hf_distill\. It is kept as it is"):
        Workspace(tmp_path)
    assert (tmp_path / ".work" / "steps.json").exists()


def test_plain_data_is_made_once_for_the_same_inputs(tmp_path):
    workspace, made = Workspace(tmp_path), []

    def make():
        made.append(1)
        return {"texts": ["a"]}

    for inputs, times in (({"seed": 0}, 1), ({"seed": 0}, 1), ({"seed": 1}, 2)):
        assert workspace.kept("augmented", inputs, make) == {"texts": ["a"]}
        assert len(made) == times
    (tmp_path / ".work" / "augmented.json").write_text('{"of"')
    assert workspace.kept("augmented", {"seed": 1}, make) and len(made) == 3


def test_a_result_that_fails_leaves_the_old_one(done):
    with pytest.raises(OSError, match="full"), Workspace(done).replacing("student") as folder:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("full")
    assert (done / "student" / "model.safetensors").read_bytes() == b"weights"


def test_text_is_written_whole(tmp_path):
    write_text(tmp_path / "a.json", "{}")
    assert json.loads((tmp_path / "a.json").read_text()) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_nested_values_have_dotted_names():
    stages = [{"temperature": 2.0, "matching": [{"kind": "hidden_state"}]}, {"seed": 1}]
    assert named("distill", stages) == {
        "distill.0.temperature": 2.0,
        "distill.0.matching.0.kind": "hidden_state",
        "distill.1.seed": 1,
    }
    assert named("compare", {"by": [], "test_sets": {}}) == {"compare.by": [], "compare.test_sets": {}}


def test_one_run_at_a_time(done):
    told = rf"another run is at work in .* \(process {os.getpid()} on "
    with Workspace(done).locked(), pytest.raises(ValueError, match=told), Workspace(done).locked():
        pass
    with Workspace(done).locked():
        pass


def test_the_lock_of_a_killed_run_does_not_count(done):
    code = f"""
        import os, pathlib, signal
        from hf_distill.recipes.workspace import Workspace
        with Workspace(pathlib.Path({str(done)!r})).locked():
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == -9
    assert (done / ".work" / "owner.json").exists()
    with Workspace(done).locked():
        assert json.loads((done / ".work" / "owner.json").read_text())["process"] == os.getpid()
