"""Files that are whole, and folders that are gone through without following links."""

import json

from hf_distill.recipes.files import entries, free_name, size_of, write_text


def test_text_is_written_whole(tmp_path):
    write_text(tmp_path / "a.json", "{}")
    assert json.loads((tmp_path / "a.json").read_text()) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_free_name_is_free_of_dangling_links_too(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    assert free_name(tmp_path / "a") == tmp_path / "a.2"


def test_links_are_found_and_not_followed(tmp_path):
    (tmp_path / "out" / "inner").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    (tmp_path / "out" / "file").write_text("four")
    (tmp_path / "out" / "inner" / "folder").symlink_to(tmp_path / "other")
    (tmp_path / "out" / "dangling").symlink_to(tmp_path / "nowhere")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in entries(tmp_path / "out")}
    assert found == {"file", "inner/folder", "dangling"}
    assert list(entries(tmp_path / "out" / "dangling")) == [tmp_path / "out" / "dangling"]
    assert list(entries(tmp_path / "none")) == [] and size_of(tmp_path / "out" / "file") == 4
