"""The app of a finished distillation: what is in its folder, and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, SpaceCard
from transformers import BertConfig, BertForTokenClassification

from hf_distill.cli import main
from hf_distill.reports.report import Report
from hf_distill.space.build import GRADIO, PYTHON, SENTENCEPIECE, push_space, write_space
from tests.hub_server import Hub
from tests.space.conftest import save

ROOT = Path(__file__).parents[2]


def test_a_run_becomes_an_app_with_all_it_needs(run, tmp_path):
    space = write_space(run, examples=["lovely food"])
    assert space == run / "space"
    files = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    loadable = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    code = {"configuration_lstm.py", "modeling_lstm.py"}
    assert files == {
        "README.md",
        "app.py",
        "requirements.txt",
        "space.json",
        *(f"teacher/{name}" for name in loadable),
        *(f"student/{name}" for name in loadable | code),
    }
    for path in ("README.md", "app.py", "requirements.txt", "space.json"):
        assert str(tmp_path) not in (space / path).read_text()
    assert "hf_distill" not in re.sub(r'""".*?"""', "", (space / "app.py").read_text(), flags=re.S)
    card = SpaceCard.load(space / "README.md")
    assert (card.data.sdk, card.data.sdk_version, card.data.app_file) == ("gradio", GRADIO, "app.py")
    assert card.data.python_version == PYTHON
    assert (card.data.title, card.data.license, card.data.models) == ("reviews", "mit", ["user/base"])
    for figure in ("543", "9,876", "1,234", "0.9100 [0.9000, 0.9200]", "16 times"):
        assert figure in card.text
    assert write_space(run / "student") == space  # a run's student knows its teacher
    assert (space / "teacher").is_dir()


def test_the_summary_of_several_seeds_and_of_a_teacher_of_other_classes(run):
    report = Report.load(run)
    report.models["teacher"]["quality"].clear()
    replace(report, seeds=3).save(run / "student")
    summary = json.loads((write_space(run) / "space.json").read_text())["summary"]
    assert "accuracy 0.9100 [0.9000, 0.9200] (95 % intervals, means of 3 seeds), 16 times as fast." in summary
    assert "against" not in summary


def test_versions_are_those_that_are_tested(run):
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert set((write_space(run) / "requirements.txt").read_text().split()) <= set(pins)


def test_a_student_alone_or_with_a_teacher_from_the_hub(run, tmp_path):
    alone = tmp_path / "mine"
    shutil.copytree(run / "student", alone)
    settings = json.loads((write_space(alone) / "space.json").read_text())
    assert [model["name"] for model in settings["models"]] == ["Student"]
    space = write_space(alone, tmp_path / "app", teacher="user/teacher")
    settings = json.loads((space / "space.json").read_text())
    assert settings["models"][0] == {"name": "Teacher", "path": "user/teacher", "trusted": False}
    assert not (space / "teacher").exists()
    assert SpaceCard.load(space / "README.md").data.models == ["user/teacher"]


def test_a_teacher_that_was_used_as_it_is_is_found(run):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["teacher"] = {"model": str(run / "given")}
    (run / "teacher").rename(run / "given")
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert (write_space(run) / "teacher" / "model.safetensors").exists()
    shutil.rmtree(run / "given")
    with pytest.raises(ValueError, match=r"There is no teacher .*given"):
        write_space(run)


def test_what_is_no_student_and_what_would_be_lost_is_refused(run, tmp_path):
    (run / "space").mkdir()
    (run / "space" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        write_space(run)
    assert (run / "space" / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="is not a finished model"):
        write_space(tmp_path)
    with pytest.raises(ValueError, match=r"space\.json is missing"):
        push_space(tmp_path, "me/app")
    tags = tmp_path / "tags"
    save(BertForTokenClassification(BertConfig(vocab_size=20, hidden_size=8, num_attention_heads=2)), tags)
    with pytest.raises(ValueError, match=r"student's task is text-classification .* token-classification"):
        write_space(run, tmp_path / "app", teacher=tags)
    (run / "student" / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match="holds a BertModel"):
        write_space(run, tmp_path / "app")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("report.json", '{"accuracy": 1}', "report.json: expected a report that hf_distill wrote"),
        ("report.json", "[1, 2]", "report.json: expected a report that hf_distill wrote"),
        ("README.md", "---\ntags: [a\n---\n", "README.md: expected YAML"),
    ],
)
def test_a_foreign_report_and_a_broken_card_are_told(run, capsys, name, content, told):
    (run / "student" / name).write_text(content)
    assert main(["space", str(run)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not [path for path in run.iterdir() if "space" in path.name]


def test_the_command_line_writes_the_app(run, tmp_path, capsys):
    assert main(["space", str(run), "--output", str(tmp_path / "app"), "--example", "lovely food"]) == 0
    assert "app.py" in capsys.readouterr().out
    assert json.loads((tmp_path / "app" / "space.json").read_text())["examples"] == [["lovely food"]]
    assert main(["space", str(tmp_path)]) == 1
    assert "is not a finished model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["space", str(run), "--exampel", "lovely food"])


def test_tokenizers_of_sentencepiece_get_their_package(run):
    assert "sentencepiece" not in (write_space(run) / "requirements.txt").read_text()
    (run / "teacher" / "source.spm").write_bytes(b"x")
    needed = (write_space(run) / "requirements.txt").read_text().split()
    assert f"sentencepiece=={SENTENCEPIECE}" in needed
    assert set(needed) <= set((ROOT / "constraints.txt").read_text().splitlines())


@pytest.mark.long
def test_the_app_is_published_in_one_commit(run, tmp_path):
    with Hub() as hub:
        words = ["space", str(run), "--push", "me/app"]
        # A process of its own: a client reads its environment when it imports huggingface_hub.
        called = [sys.executable, "-m", "hf_distill", *words]
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(called, capture_output=True, text=True, env=environment, timeout=800)
        assert done.returncode == 0, done.stderr
        (commit,) = hub.commits("me/app", "space")
        assert done.stdout.splitlines()[-1].endswith(f"/spaces/me/app/commit/{commit.oid}")
        assert hub.repositories["space", "me/app"].private
        assert hub.repositories["space", "me/app"].sdk == "gradio"
        space = run / "space"
        written = {path.relative_to(space).as_posix(): path for path in space.rglob("*") if path.is_file()}
        assert {name: path.read_bytes() for name, path in written.items()} == hub.files("me/app", "space")
        assert ModelCard(hub.files("me/app", "space")["README.md"].decode()).data.sdk == "gradio"
