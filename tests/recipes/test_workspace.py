"""The record of a run: what counts as done, what changed, and which files are not what a step left."""

import json
import os

import pytest

from hf_distill.recipes.workspace import CARD, Workspace, named

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
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    again = Workspace(done)
    assert again.changes("distill", INPUTS, 1) == [] and again.changes("controls", {}, 1) is None and again.is_ours
    after = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    assert after == before, "who only looks changes nothing, a plan for instance"
    again.save()
    assert (done / ".work" / "record.json.damaged").exists()
    assert Workspace(done).changes("distill", INPUTS, 1) == []


def test_a_record_of_something_else_is_refused(tmp_path):
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "record.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match=r"expected the record of a run of this version .* got something else"):
        Workspace(tmp_path)
    assert [path.name for path in (tmp_path / ".work").iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    "steps",
    [
        [],
        {"distill": 5},
        {"distill": {"inputs": {}, "revision": 1, "files": {"../../outside": [1, "0"]}}},
        {"distill": {"inputs": {}, "revision": 1, "files": {"/etc/passwd": [1, "0"]}}},
        {"distill": {"inputs": [], "revision": 1, "files": {}}},
    ],
)
def test_a_record_that_somebody_wrote_leads_nowhere_else(tmp_path, steps):
    (tmp_path / ".work").mkdir()
    content = {"format": 2, "steps": steps, "hashes": {}}
    (tmp_path / ".work" / "record.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="expected the record of a run"):
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


def test_nested_values_have_dotted_names():
    stages = [{"temperature": 2.0, "matching": [{"kind": "hidden_state"}]}, {"seed": 1}]
    assert named("distill", stages) == {
        "distill.0.temperature": 2.0,
        "distill.0.matching.0.kind": "hidden_state",
        "distill.1.seed": 1,
    }
    assert named("compare", {"by": [], "test_sets": {}}) == {"compare.by": [], "compare.test_sets": {}}


# Whose files these are


def test_what_a_run_left_is_its_own(done):
    workspace = Workspace(done)
    workspace.check_links(["student"])
    workspace.check_foreign(["student", "report.json"])
    (done / "student" / "model.safetensors").write_bytes(b"cut")
    workspace.move_aside(done / "student" / "model.safetensors", ".damaged")
    workspace.check_foreign(["student"])


@pytest.mark.parametrize("name", ["student/notes.txt", "report.json", "baseline/model.safetensors", "student/a/b"])
def test_what_no_run_made_is_refused_with_its_name(done, name):
    (done / name).parent.mkdir(exist_ok=True, parents=True)
    (done / name).write_text("years of work")
    with pytest.raises(ValueError, match=rf"has {name} already, not from a run .* another output_dir, or move it away"):
        Workspace(done).check_foreign(["student", "baseline", "report.json"])
    assert (done / name).read_text() == "years of work"


def test_claims_outlive_a_step_that_does_not_count_any_more(done):
    Workspace(done).forget("distill")
    Workspace(done).check_foreign(["student"])
    Workspace(done).claim(["cache/*shard-*"])
    (done / "cache" / "fold-0").mkdir(parents=True)
    (done / "cache" / "fold-0" / "shard-0.arrow").write_text("")
    Workspace(done).check_foreign(["cache"])
    (done / "cache" / "mine.txt").write_text("")
    with pytest.raises(ValueError, match=r"has cache/mine\.txt already"):
        Workspace(done).check_foreign(["cache"])


def test_a_folder_for_work_without_the_mark_is_foreign(tmp_path):
    (tmp_path / ".work").mkdir()
    with Workspace(tmp_path).locked():
        pass
    (tmp_path / ".work" / "record.json").unlink()
    (tmp_path / ".work" / "record.json.before").unlink(missing_ok=True)
    Workspace(tmp_path).check_foreign([])  # killed before it was marked
    (tmp_path / ".work" / "todo.txt").write_text("")
    with pytest.raises(ValueError, match=r"has \.work/todo\.txt already"):
        Workspace(tmp_path).check_foreign([])


@pytest.mark.parametrize("name", ["student", "student/onnx", "report.json", ".work/initial"])
def test_links_are_told_at_once(done, tmp_path_factory, name):
    other = tmp_path_factory.mktemp("other")
    (other / "thesis.tex").write_text("years of work")
    if name == "student":
        (done / "student").rename(done / "elsewhere")
    (done / name).symlink_to(other)
    with pytest.raises(ValueError, match=rf"has symbolic links where a run writes: {name} → {other}\. Nothing is"):
        Workspace(done).check_links(["student", "report.json"])
    assert (other / "thesis.tex").exists()


def test_a_result_changes_places_even_if_it_is_killed_in_between(done):
    workspace = Workspace(done)
    (done / CARD).write_text("my own words")
    workspace.move_aside(done / CARD, ".edited")
    (done / "student").rename(done / ".work" / "replaced-student")  # killed after the first of two renames
    (done / ".work" / "new").mkdir()
    with workspace.replacing("student") as folder:
        (folder / "model.safetensors").write_bytes(b"again")
    assert (done / "student" / "model.safetensors").read_bytes() == b"again"
    assert (done / "student" / "README.md.edited").read_text() == "my own words"
    assert sorted(path.name for path in (done / ".work").iterdir()) == ["record.json", "record.json.before"]


def test_a_result_that_fails_gives_its_room_back(done):
    with pytest.raises(OSError, match="full"), Workspace(done).replacing("student") as folder:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("full")
    assert not (done / ".work" / "new").exists()
