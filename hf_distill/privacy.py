"""What stays here when something is published: folders of this machine, tokens and passwords."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEFT_OUT = "..."
# The keys under which transformers, huggingface_hub and datasets take them; a name that merely ends in "token" may be a
# tokenizer's, or a class of the data.
SECRET_KEYS = ("token", "hub_token", "push_to_hub_token", "use_auth_token", "api_key", "password", "storage_options")
SECRETS = re.compile(r"\b(?:hf_\w{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,})")
USER_OF_URL = re.compile(r"(?<=://)[^/\s@]+@")
FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".txt", ".gz", ".zip", ".xz", ".bz2", ".zst")
CLASSES = ("labels", "label_map")  # names of classes, which the card shows too
FOLDERS = ("output_dir", "logging_dir", "resume_from_checkpoint", "cache_dir", "data_dir")  # keys of nothing else


def without_folders(text: str) -> str:
    """A text in which absolute paths are cut to their last name: a card is no place for somebody's home folder.

    >>> without_folders("hf-distill run /home/me/project/recipe.yaml --from https://example.org/a/b")
    'hf-distill run recipe.yaml --from https://example.org/a/b'
    """
    return re.sub(r"(?<![\w:/.~\\])(?:~|[A-Za-z]:)?[/\\](?=\S)(?:[^\s'\"/\\|]+[/\\])*([^\s'\"/\\|]*)", r"\1", text)


def shareable(content: Any) -> Any:
    """A recipe's values without what is nobody's business: of local paths the last name, and no token.

    Args:
        content: plain values, as YAML has them.

    >>> shareable({"data": {"path": "/home/me/tweets.csv"}, "teacher": {"model": "google-bert/bert-base-uncased"}})
    {'data': {'path': 'tweets.csv'}, 'teacher': {'model': 'google-bert/bert-base-uncased'}}
    >>> shareable({"output_dir": "runs/first", "distill": {"hub_token": "hf_abcdefghijklmnopqrst", "max_steps": 5}})
    {'output_dir': 'first', 'distill': {'max_steps': 5}}
    """
    if isinstance(content, Mapping):
        return {name: _of_key(name, value) for name, value in content.items() if name not in SECRET_KEYS}
    if isinstance(content, list | tuple):
        return [shareable(each) for each in content]
    if not isinstance(content, str):
        return content
    if _is_local(content):
        return _last_name(content)
    return without_folders(USER_OF_URL.sub("", SECRETS.sub(LEFT_OUT, content)))


def _of_key(name: Any, value: Any) -> Any:
    if name in CLASSES:
        return value
    return _last_name(value) if name in FOLDERS and isinstance(value, str) else shareable(value)


def _is_local(text: str) -> bool:
    """Whether a text is nothing but a path of this machine; "user/name" is one of the Hub, unless it is here too."""
    if re.match(r"\w[\w+.-]+:", text) or not re.search(r"[/\\]", text) or "\n" in text:  # package:..., https://...
        return False
    relative = text.startswith((".", "~")) or len(re.findall(r"[/\\]", text)) > 1 or text.endswith(FILES)
    return (relative and " " not in text) or Path(text).exists()


def _last_name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
