"""What stays here when something is published: folders of this machine, tokens and passwords."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEFT_OUT = "..."
# Whatever ends as the keys under which transformers, huggingface_hub, datasets and fsspec take them, but for the tokens
# of a tokenizer; a class of the data may be called so too, see CLASSES.
SECRET_KEY = re.compile(
    r"(?:^|.*[_-])(?:token|api[_-]?key|(?:secret|access)[_-]key|password|secret|authorization)|storage_options",
    re.IGNORECASE,
)
SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "cls", "eos", "mask", "pad", "sep", "unk"))
SECRETS = re.compile(r"\b(?:hf_\w{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|(?i:bearer) [\w.~+/=-]{16,})")
USER_OF_URL = re.compile(r"(?<=://)[^/\s@]+@")
FILE_URL = re.compile(r"\bfile:(?://[^/\s]*)?(?=/)", re.IGNORECASE)
ROOTED = re.compile(r"(?:\.{0,2}|~\w*|[A-Za-z]:)[/\\]")
FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".txt", ".gz", ".zip", ".xz", ".bz2", ".zst")
CLASSES = ("labels", "label_map")  # names of classes, which the card shows too
FOLDERS = ("output_dir", "logging_dir", "resume_from_checkpoint", "cache_dir", "data_dir")  # keys of nothing else


def without_folders(text: str) -> str:
    """A text in which absolute paths are cut to their last name: a card is no place for somebody's home folder.

    >>> without_folders("hf-distill run /home/me/project/recipe.yaml --from https://example.org/a/b")
    'hf-distill run recipe.yaml --from https://example.org/a/b'
    """
    path = r"(?<![\w/.~\\])(?<!:(?=//))(?:~|[A-Za-z]:)?[/\\](?=\S)(?:[^\s'\"/\\|]+[/\\])*([^\s'\"/\\|]*)"
    return re.sub(path, r"\1", FILE_URL.sub("", text))


def shareable(content: Any) -> Any:
    """A recipe's values without what is private: of local paths the last name, and no token.

    Args:
        content: plain values, as YAML has them.

    >>> shareable({"data": {"path": "/home/me/tweets.csv"}, "teacher": {"model": "google-bert/bert-base-uncased"}})
    {'data': {'path': 'tweets.csv'}, 'teacher': {'model': 'google-bert/bert-base-uncased'}}
    >>> shareable({"output_dir": "runs/first", "distill": {"hub_token": "hf_abcdefghijklmnopqrst", "max_steps": 5}})
    {'output_dir': 'first', 'distill': {'max_steps': 5}}
    """
    if isinstance(content, Mapping):
        return {name: _of_key(name, value) for name, value in content.items() if not _is_secret(str(name))}
    if isinstance(content, list | tuple):
        return [shareable(each) for each in content]
    if not isinstance(content, str):
        return content
    if _is_local(path := FILE_URL.sub("", content)):
        return _last_name(path)
    return without_folders(USER_OF_URL.sub("", SECRETS.sub(LEFT_OUT, content)))


def _is_secret(key: str) -> bool:
    return SECRET_KEY.fullmatch(key) is not None and key not in SPECIAL_TOKENS


def _of_key(name: Any, value: Any) -> Any:
    if name in CLASSES:
        return value
    return _last_name(value) if name in FOLDERS and isinstance(value, str) else shareable(value)


def _is_local(text: str) -> bool:
    """Whether a text is nothing but a path of this machine; "user/name" is one of the Hub, unless it is here too."""
    if re.match(r"\w[\w+.-]+:", text) or not re.search(r"[/\\]", text) or "\n" in text:  # package:..., https://...
        return False
    if ROOTED.match(text) or text.endswith(FILES) or Path(text).exists():
        return True
    return " " not in text and len(re.findall(r"[/\\]", text)) > 1


def _last_name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
