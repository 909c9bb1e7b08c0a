"""Names on the Hub, folders, and files inside installed packages."""

import pytest

from hf_distill.paths import is_hub_id, local, name_of, naming, read_yaml, resolve


def test_a_folder_here_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("user/name") and is_hub_id("name")
    (tmp_path / "user" / "name").mkdir(parents=True)
    assert not is_hub_id("user/name")
    assert not any(is_hub_id(name) for name in ("./name", "~/name", "/name", "user/name/more", "a b"))


def test_a_file_in_a_package(tmp_path):
    assert resolve("user/name") == "user/name"
    assert resolve("package:hf_distill/reports/model_card_template.md").endswith(
        "hf_distill/reports/model_card_template.md"
    )
    with pytest.raises(ValueError, match="'hf_distil' is not installed"):
        resolve("package:hf_distil/file")
    with pytest.raises(ValueError, match=r"'hf_distill' has no file 'nothing.md'"):
        resolve("package:hf_distill/nothing.md")


def test_only_the_last_name_of_what_is_on_this_machine_is_told(tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    names = (str(folder), "package:hf_distill/space/app.py", "user/name")
    assert [name_of(name) for name in names] == ["teacher", "hf_distill", "user/name"]
    assert [local(name) for name in names] == ["./teacher", "./hf_distill", "user/name"]


def test_a_file_that_is_no_yaml_is_told_in_a_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("task: translation\nseed: 3\n")
    assert read_yaml(path) == {"task": "translation", "seed": 3}
    path.write_text("task: [a\nseed: 3\n")
    with pytest.raises(ValueError, match=r"recipe\.yaml: expected YAML\.") as told:
        read_yaml(path)
    assert "\n" not in str(told.value)


def test_what_cannot_be_loaded_is_named():
    with pytest.raises(OSError, match=r"teacher\.model: a/b cannot be loaded\. No such model, sorry\. Check the name"):  # noqa: SIM117
        with naming("teacher.model", "a/b"):
            raise OSError("No such model,\nsorry.")
    with pytest.raises(OSError, match=r"data\.path: /a/b cannot be loaded\. Not there\. Check the folder\."):  # noqa: SIM117
        with naming("data.path", "/a/b"):
            raise FileNotFoundError("Not there")
    full = OSError(28, "No space left on device")
    with pytest.raises(OSError) as raised, naming("data.path", "a/b"):
        raise full
    assert raised.value is full
