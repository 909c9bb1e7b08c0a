"""What stays here when text leaves this machine: tokens, passwords and folders. The one place that decides it.

`redacted` is for messages, `without_secrets` for values that are kept here, `shareable` for values that are published.
"""

import functools
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import get_token

from hf_distill.paths import exists

LEFT_OUT = "..."
# Whatever ends as the keys under which transformers, huggingface_hub, datasets and fsspec take them, but for the tokens
# of a tokenizer; a class of the data may be called so too, see CLASSES.
SECRET_NAME = r"token|api[_-]?key|(?:secret|access)[_-]key|secret|authorization|credentials?"
SECRET_KEY = re.compile(rf"(?:^|.*[._-])(?:{SECRET_NAME})|.*passw(?:or)?d|storage_options", re.IGNORECASE)
SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "cls", "eos", "mask", "pad", "sep", "unk"))
SECRETS = re.compile(
    r"\b(?:hf_\w{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|AKIA[A-Z0-9]{16}"
    r"|(?i:bearer) [\w.~+/=-]{16,}|(?i:authorization['\"]?\s*[:=]\s*b?['\"]?(?:basic|bearer)) [\w.~+/=-]+)"
)
USER_OF_URL = re.compile(r"(?<=://)[^/\s'\"]*@")
QUERY_OF_URL = re.compile(rf"(?i)(?<=[?&;])([\w.-]*(?:{SECRET_NAME}|key|sig|signature|passw(?:or)?d)=)[^&;\s'\"<>#]+")
# A value in quotes, or a word of a command line, behind a name that stands for a secret.
# Each begins where a word does, so that long words cost no time.
NAMED = re.compile(
    rf"(?i)(?<![\w.-])(?P<name>[\w.-]*?(?:{SECRET_NAME}|passw(?:or)?d))(?P<between>['\"]?\s{{0,4}}[:=]\s{{0,4}})b?"
    r"(?P<quote>['\"]).{1,2000}?(?P=quote)"
    rf"|(?<![\w-])(?P<word>--[\w.-]*?(?:{SECRET_NAME}|passw(?:or)?d)[ =])\S+"
)
SHORTEST = 6  # characters of a secret that is looked for by its value: a shorter one stands in many a word
FILE_URL = re.compile(r"\bfile:(?://[^/\s]*)?(?=/)", re.IGNORECASE)
ROOTED = re.compile(r"(?:\.{0,2}|~\w*|[A-Za-z]:)[/\\]")
FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".txt", ".gz", ".zip", ".xz", ".bz2", ".zst")
CLASSES = ("labels", "label_map", "classes", "spellings")  # names of classes, which the card shows too
ADDRESSES = ("url",)  # of a server, which may be one of a network of its owner's
FOLDERS = ("output_dir", "logging_dir", "resume_from_checkpoint", "cache_dir", "data_dir")  # keys of nothing else


def redacted(text: str, *secrets: str | None) -> str:
    """A message without tokens, passwords, and the user in an address. Folders stay: a reader needs them.

    Args:
        text: for a person, a log or an error.
        secrets: that are known here, beside those of the environment and of `hf auth login`.

    >>> redacted("GET http://me:pw@host/v1?api_key=abc failed, hub_token='xyz'")
    "GET http://host/v1?api_key=... failed, hub_token='...'"
    """
    own = _secrets_of(tuple(os.environ.items()))
    for secret in sorted({*filter(None, secrets), *own, get_token() or ""}, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, LEFT_OUT)
    return NAMED.sub(_unnamed, QUERY_OF_URL.sub(rf"\1{LEFT_OUT}", _plain(text)))


def _plain(text: str) -> str:
    return USER_OF_URL.sub("", SECRETS.sub(LEFT_OUT, text))


def _unnamed(found: re.Match[str]) -> str:
    if found["word"] is not None:
        return f"{found['word']}{LEFT_OUT}"
    if found["name"].rpartition(".")[2] in SPECIAL_TOKENS:
        return found[0]
    return f"{found['name']}{found['between']}{found['quote']}{LEFT_OUT}{found['quote']}"


@functools.lru_cache(maxsize=1)
def _secrets_of(environment: tuple[tuple[str, str], ...]) -> set[str]:
    """The tokens and passwords in an environment."""
    passwords = {password_of(value) or "" for _, value in environment if "://" in value and "@" in value}
    return passwords | {value for name, value in environment if SECRET_KEY.fullmatch(name)}


def password_of(url: str) -> str | None:
    """The password in an address, as it would be sent; None without one."""
    try:
        password = urlsplit(url).password
    except ValueError:  # no address
        return None
    return None if password is None else unquote(password)


def presentable(error: BaseException, *secrets: str | None) -> BaseException | None:
    """What to raise an error from: the one that caused it, or None where a traceback of it would show a secret.

    Args:
        error: that was caught.
        secrets: see `redacted`.
    """
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        if redacted(str(each), *secrets) != str(each):
            return None
        seen.append(each)
        each = each.__cause__ or each.__context__
    return error


def secrets_in(content: Any) -> list[str]:
    """The texts that stand under secret keys in plain values, and the passwords in their addresses."""
    if isinstance(content, Mapping):
        found = [text for name, value in content.items() if _is_secret(str(name)) for text in _texts(value)]
        return found + [text for name, value in content.items() if name not in CLASSES for text in secrets_in(value)]
    if isinstance(content, list | tuple):
        return [text for each in content for text in secrets_in(each)]
    return [password_of(content) or ""] if isinstance(content, str) and "://" in content else []


def _texts(content: Any) -> list[str]:
    if isinstance(content, Mapping | list | tuple):
        inner = content.values() if isinstance(content, Mapping) else content
        return [text for each in inner for text in _texts(each)]
    return [str(content)] if content else []


def without_secrets(content: Any) -> Any:
    """Plain values as they may be kept on this machine: without tokens and passwords, with their folders.

    >>> without_secrets({"hub_token": "hf_x", "path": "https://me:pw@host/home/x.csv", "max_steps": 3})
    {'path': 'https://host/home/x.csv', 'max_steps': 3}
    """
    if isinstance(content, Mapping):
        kept = {name: value for name, value in content.items() if not _is_secret(str(name))}
        return {name: value if name in CLASSES else without_secrets(value) for name, value in kept.items()}
    if isinstance(content, list | tuple):
        return [without_secrets(each) for each in content]
    return QUERY_OF_URL.sub(rf"\1{LEFT_OUT}", _plain(content)) if isinstance(content, str) else content


def without_folders(text: str) -> str:
    """A text in which absolute paths are cut to their last name: a card is no place for somebody's home folder.

    >>> without_folders("hf-distill run /home/me/project/recipe.yaml --from https://example.org/a/b")
    'hf-distill run recipe.yaml --from https://example.org/a/b'
    """
    path = r"(?<![\w/.~\\<])(?<!:(?=//))(?:~|[A-Za-z]:)?[/\\](?=\S)(?:[^\s'\"/\\|]+[/\\])*([^\s'\"/\\|]*)"
    return re.sub(path, r"\1", FILE_URL.sub("", text))


def shareable(content: Any) -> Any:
    """A recipe's values without what is private: of local paths the last name, and no token.

    Args:
        content: plain values, as YAML has them.

    >>> shareable({"data": {"path": "/home/me/tweets.csv"}, "teacher": {"model": "google-bert/bert-base-uncased"}})
    {'data': {'path': 'tweets.csv'}, 'teacher': {'model': 'google-bert/bert-base-uncased'}}
    >>> shareable({"server": {"url": "http://gpu-7.intern:8000/v1", "model": "Qwen/Qwen3-8B"}})
    {'server': {'url': '...', 'model': 'Qwen/Qwen3-8B'}}
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
    return without_folders(without_secrets(content))


PATHS = re.compile(r"(?:.*_)?(?:name_or_path|file|path|dir|folder)|[a-z]*path", re.IGNORECASE)


def shareable_config(content: Any) -> Any:
    """A model's or tokenizer's config without folders of this machine and tokens; what else it says is not touched.

    Args:
        content: plain values, as JSON has them.

    >>> shareable_config({"_name_or_path": "/home/me/teacher", "eos_token": "</s>", "sep": "/"})
    {'_name_or_path': 'teacher', 'eos_token': '</s>', 'sep': '/'}
    """
    if isinstance(content, Mapping):
        return {
            name: shareable(value) if isinstance(value, str) and PATHS.fullmatch(str(name)) else shareable_config(value)
            for name, value in content.items()
        }
    if isinstance(content, list | tuple):
        return [shareable_config(each) for each in content]
    return _plain(content) if isinstance(content, str) else content


def _is_secret(key: str) -> bool:
    return SECRET_KEY.fullmatch(key) is not None and key.rpartition(".")[2] not in SPECIAL_TOKENS


def _of_key(name: Any, value: Any) -> Any:
    if name in CLASSES:
        return value
    if name in ADDRESSES:
        return LEFT_OUT
    return _last_name(value) if name in FOLDERS and isinstance(value, str) else shareable(value)


def _is_local(text: str) -> bool:
    """Whether a text is nothing but a path of this machine; "user/name" is one of the Hub, unless it is here too."""
    if re.match(r"\w[\w+.-]+:", text) or not re.search(r"[/\\]", text) or "\n" in text:  # package:..., https://...
        return False
    if ROOTED.match(text) or text.endswith(FILES) or exists(text):
        return True
    return " " not in text and len(re.findall(r"[/\\]", text)) > 1


def _last_name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
