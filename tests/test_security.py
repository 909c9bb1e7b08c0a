"""What SECURITY.md promises: nothing is unpickled, nothing is written outside, nothing private gets out."""

import ast
import contextlib
import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import hf_distill
from hf_distill import Recipe
from hf_distill.cli import main
from hf_distill.data.files import read
from hf_distill.hub.outgoing import files_in
from hf_distill.hub.push import NOT_PUSHED
from hf_distill.paths import exists, is_hub_id, local, name_of, resolve
from hf_distill.problems import TASKS
from hf_distill.redaction import shareable
from hf_distill.space.build import write_space
from hf_distill.teachers.live import load_teacher
from tests.conftest import tiny_bert
from tests.properties import examples
from tests.space.conftest import finished_run
from tests.training.test_trainer_features import taught

ROOT = Path(hf_distill.__file__).parents[1]
PACKAGE = sorted((ROOT / "hf_distill").rglob("*.py"))
ALL = [*PACKAGE, *sorted((ROOT / "examples").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
SECRET, KEY = "hf_PlantedPlantedPlanted", "plain-planted-key"


# What the code calls


def calls(path):
    """The dotted name and the keyword arguments of each call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node, {each.arg: ast.unparse(each.value) for each in node.keywords}


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_or_unpickles_what_it_reads(path):
    for name, node, options in calls(path):
        first, _, last = name.partition(".")
        assert first not in ("pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"), name
        assert name not in ("eval", "exec", "os.system", "os.popen", "tempfile.mktemp", "tempfile.gettempdir"), name
        assert name != "torch.load" or options.get("weights_only") == "True", ast.unparse(node)
        assert last != "unpack_archive" and (last != "extractall" or options["filter"] == "'data'"), ast.unparse(node)
        assert options.get("allow_pickle", "False") == "False", ast.unparse(node)
        assert name not in ("yaml.unsafe_load", "yaml.full_load", "yaml.load_all"), name
        assert options.get("shell", "False") == "False", ast.unparse(node)
        assert not (path in PACKAGE and first == "subprocess"), name
        assert not (path in PACKAGE and options.get("trust_remote_code") == "True"), ast.unparse(node)
        assert "NamedTemporaryFile" not in name or options.get("delete", "True") == "True", ast.unparse(node)
        if name == "yaml.load":
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            loader = options.get("Loader") or ast.unparse(node.args[1])
            assert issubclass(getattr(module, loader.removeprefix("yaml.")), yaml.SafeLoader), loader


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_has_a_name_in_tmp_or_listens_to_others(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"""["']/(?:var/)?tmp\b""", text)
    assert "0.0.0.0" not in text and not re.search(r"launch\([^)]*share\s*=\s*True", text)


def test_temporary_folders_are_private():
    with tempfile.TemporaryDirectory() as folder:
        assert Path(folder).stat().st_mode & 0o077 == 0


def test_no_output_of_a_notebook_has_a_folder_or_a_token():
    for path in sorted((ROOT / "examples").rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            shown = json.dumps(cell.get("outputs", []))
            assert not re.search(
                r"/(?:home|root|Users|work|tmp)/\w|[A-Z]:\\\\\\\\Users|\bhf_[A-Za-z0-9]{16,}", shown
            ), path


# Files that run when they are unpickled


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def plant(path, mark):
    path.write_bytes(pickle.dumps(Bomb(mark), protocol=2))


def plant_archive(path, mark):
    torch.save({"x": Bomb(mark)}, path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a training with a checkpoint in its middle."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = taught(folder, tiny_bert(num_labels=3), max_steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    return folder / "checkpoint-1"


@pytest.mark.parametrize("how", [plant, plant_archive])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_checkpoint_runs_nothing(trained, tmp_path, name, how):
    checkpoint, mark = tmp_path / "checkpoint-1", tmp_path / "ran"
    shutil.copytree(trained, checkpoint)
    how(checkpoint / name, mark)
    trainer = taught(tmp_path / "out", tiny_bert(num_labels=3), max_steps=2, save_strategy="no")
    if name == "training_args.bin":  # nothing reads it
        trainer.train(resume_from_checkpoint=str(checkpoint))
    else:
        with pytest.raises(pickle.UnpicklingError, match=r"Weights only load failed|weights_only|[Uu]npickl"):
            trainer.train(resume_from_checkpoint=str(checkpoint))
    assert not mark.exists()


@pytest.mark.parametrize("how", [plant, plant_archive])
def test_a_teacher_runs_nothing(tmp_path, how):
    mark = tmp_path / "ran"
    tiny_bert(num_labels=3).save_pretrained(tmp_path)
    how(tmp_path / "pytorch_model.bin", mark)
    load_teacher(tmp_path, TASKS["text-classification"].auto_class)  # safetensors come first
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises((pickle.UnpicklingError, OSError, ValueError)):
        load_teacher(tmp_path, TASKS["text-classification"].auto_class)
    assert not mark.exists()


def test_yaml_makes_no_objects(tmp_path, capsys):
    mark = tmp_path / "ran"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"task: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]\n")
    assert main(["run", str(recipe)]) == 1
    assert main(["run", str(recipe), "--seed", f"!!python/object/apply:os.mkdir [{mark}]"]) == 1
    assert "recipe.yaml: expected YAML" in capsys.readouterr().err
    assert not mark.exists()


# Names that would lead out of a folder

LEADING_OUT = (
    "../x",
    "/x",
    "..",
    ".",
    "a/../../x",
    "a\0b",
    "C:\\x",
    "\\\\host\\x",
    "~",
    "~/x",
    "x" * 300,
    "CON",
    "",
    " ",
)
STRANGE = st.one_of(st.sampled_from(LEADING_OUT), st.text(max_size=20), st.text("./\\~\0a:", max_size=12))


def listing(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@examples(50)
@given(STRANGE)
def test_no_name_is_too_strange_to_be_asked_about(name):
    assert exists(name) in (True, False)
    assert is_hub_id(name) in (True, False)
    assert "/" not in name_of(name) or name_of(name) == name
    assert isinstance(local(name), str) and isinstance(shareable({"path": name})["path"], str)


@examples(50)
@given(STRANGE)
def test_nothing_outside_a_package_is_named(name):
    for path in (f"package:torch/{name}", f"package:{name}/torch", f"package:torch/nn/{name}"):
        try:
            found = Path(resolve(path)).resolve()
        except ValueError as error:
            assert "package" in str(error)
        else:
            assert Path(torch.__file__).parent in (found, *found.parents)


@examples(6, share=0.05)
@given(names=st.lists(STRANGE, min_size=4, max_size=4))
def test_names_of_the_data_stay_within_the_folder(finished, names):
    """Titles, classes, columns and test sets of a card and a Space."""
    run, around = finished
    config = json.loads((run / "student" / "config.json").read_text())
    config["id2label"] = {str(number): name for number, name in enumerate(names[:3])}
    (run / "student" / "config.json").write_text(json.dumps(config))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["text"] = names[3] or "text"
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = listing(around)
    space = write_space(run, examples=[names[0]])
    assert listing(around) - before <= {name for name in listing(around) if name.startswith("out/space")}
    assert set(files_in(space)) == set(files_in(finished[0] / "space"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    around = tmp_path_factory.mktemp("around")
    return finished_run(around), around


def test_an_archive_is_read_and_nothing_in_it_written_outside(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    inside = tmp_path / "inside" / "deep"
    inside.mkdir(parents=True)
    for name in ("../../evil.csv", "/evil.csv", "good.csv"):
        with zipfile.ZipFile(inside / "rows.csv.zip", "w") as archive:
            archive.writestr(name, "text,label\nfine,good\n")
        if name == "good.csv":
            assert read(str(inside / "rows.csv.zip"))["train"]["text"] == ["fine"]
        else:
            with contextlib.suppress(ValueError):
                read(str(inside / "rows.csv.zip"))
        assert listing(tmp_path / "inside") == {"deep", "deep/rows.csv.zip"}
        assert not Path("/evil.csv").exists() and not (tmp_path / "evil.csv").exists()


# Secrets, through every door


@pytest.mark.parametrize(
    "words",
    [
        ["--distill.hub_token", KEY, "--distill.max_steps", "many"],
        [f"--distill.hub_token={KEY}", "--distill.hub_tokn=1"],
        ["--teacher.fine_tune", f"{{hub_token: {KEY}, learning_rate: [1]}}"],
        ["--data.path", f"https://me:{KEY}@127.0.0.1:9/x.csv"],
        ["--seed", f"{{token: {KEY}}}"],
        [f"--token={KEY}"],
        ["--data.options", f"{{storage_options: {{key: {KEY}}}, delimiter: 3}}"],
    ],
)
def test_the_command_line_shows_no_secret(tmp_path, capfd, words):
    recipe = {"task": "text-classification", "data": {"path": "a.csv"}, "teacher": {"model": "b"}, "output_dir": "c"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "output_dir": str(tmp_path / "out")}))
    assert main(["run", str(path), *words]) == 1
    out, error = capfd.readouterr()
    assert error and KEY not in out + error


@pytest.mark.parametrize("words", [["push", "x", "--token", KEY], ["space", "x", f"--hub-token={KEY}"]])
def test_an_unknown_word_shows_no_secret(capsys, words):
    with pytest.raises(SystemExit):
        main(words)
    assert KEY not in capsys.readouterr().err


def test_a_kept_recipe_has_no_secret_and_its_folders(tmp_path):
    recipe = Recipe.from_dict(
        {
            "task": "text-classification",
            "data": {"path": f"https://me:{KEY}@host/x.csv", "options": {"storage_options": {"key": KEY}}},
            "teacher": {"model": str(tmp_path / "teacher"), "fine_tune": {"run_name": "a"}},
            "output_dir": str(tmp_path / "out"),
        }
    )
    recipe.save(tmp_path / "recipe.yaml")
    text = (tmp_path / "recipe.yaml").read_text()
    assert KEY not in text and SECRET not in text
    assert str(tmp_path / "teacher") in text
    for training in ({"distill": [{"hub_token": KEY}]}, {"teacher": {"model": "x", "fine_tune": {"hub_token": KEY}}}):
        with pytest.raises(ValueError, match=r"hub_token cannot be set here; .* Log in with `hf auth login`") as caught:
            Recipe.from_dict(yaml.safe_load(text) | training)
        assert KEY not in str(caught.value)


PLANTED = """
import sys
from hf_distill.cli import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.faults
def test_a_whole_run_leaves_no_secret_and_publishes_no_folder(tmp_path):
    from tests.recipes.test_run import recipe, write_reviews, write_teacher

    home = tmp_path / "home-of-somebody"
    home.mkdir()
    write_reviews(home / "reviews.csv", 300)
    write_teacher(home / "teacher")
    path = recipe(
        home,
        teacher={
            "model": str(home / "teacher"),
            "fine_tune": {"num_train_epochs": 1, "run_name": f"run in {home}"},
        },
        distill=[{"num_train_epochs": 1, "disable_tqdm": True}],
        compare={"resamples": 20, "detailed_costs": False},
    )
    environment = {"HF_TOKEN": SECRET, "OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PLANTED, "run", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment, "HF_HUB_OFFLINE": "1"},
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    out = home / "out"
    for secret in (SECRET, KEY):
        assert secret not in done.stdout + done.stderr
        found = [name for name in out.rglob("*") if name.is_file() and secret.encode() in name.read_bytes()]
        assert not found, f"{secret} stands in {found}"
    published = {**files_in(out / "student", NOT_PUSHED), **files_in(out / "cache")}
    published |= {f"space/{name}": path for name, path in files_in(write_space(out)).items()}
    assert len(published) > 20
    for name, file in published.items():
        assert b"home-of-somebody" not in file.read_bytes() or name == "inputs.json", name
