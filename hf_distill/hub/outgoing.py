"""The files that a push sends: none that a link fetches from elsewhere, and none that was cut."""

import ast
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects
from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from safetensors import SafetensorError, safe_open

from hf_distill.hub.usage import BEGIN, CARD_END, END
from hf_distill.plain_yaml import yaml_fault

FRONT_MATTER = re.compile(r"\s*---[ \t]*\n((?:.*\n)*?)---[ \t]*(?:\n|$)")
USAGE = re.compile(r"^```python\n.*?^```", re.MULTILINE | re.DOTALL)
LINES = ("vocab.txt", "merges.txt", "bpe.codes", "requirements.txt")  # files whose every line has an end
MODULE_OF_PACKAGE = "__init__.py"  # may be empty


def files_in(folder: str | Path, left: Sequence[str] = ()) -> dict[str, Path]:
    """The files of a folder and of those in it, by their names relative to it.

    Links within the folder are read; of the Hub's cache, whose snapshots consist of links, those within a repository.

    Args:
        folder: any.
        left: patterns of names that are not wanted, see `huggingface_hub.utils.filter_repo_objects`.
    Raises:
        ValueError: a link leads out of the folder, to another folder, or nowhere.
    """
    folder = Path(folder)
    paths = {
        path.relative_to(folder).as_posix() + "/link" * (name in folders): path
        for place, folders, files in os.walk(folder)
        for name in [*folders, *files]
        if (path := Path(place) / name).is_symlink() or path.is_file()
    }
    wanted = {name: paths[name] for name in filter_repo_objects(sorted(paths), ignore_patterns=list(left))}
    for path in wanted.values():
        check_link(path, folder)
    return wanted


def check_link(path: Path, folder: Path) -> None:
    """Raise a ValueError where a path is a link that leads out of a folder, to another folder, or nowhere."""
    if not path.is_symlink():
        return
    root, cache, target = folder.resolve(), Path(constants.HF_HUB_CACHE).resolve(), path.resolve()
    allowed = root.parents[1] if root.parent.name == "snapshots" and cache in root.parents else root
    if not target.is_file() or allowed not in target.parents:
        raise ValueError(
            f"{path} is a link to {os.readlink(path)}. Links that lead out of the folder or to other folders are not "
            "followed: what is there might not be meant for others. Put the file itself in its place, or remove the "
            "link."
        )


def check_whole(files: Mapping[str, Path | bytes], left: Mapping[str, tuple[int, str]] | None = None) -> None:
    """Read the headers of weights and graphs, configs, tokenizers, code and the card, before any of them is sent.

    Args:
        files: by name, with where they are or their content.
        left: the size and hash of each file that a run left.
    Raises:
        ValueError: with every file that is empty, was cut, or is not what the run left, by name.
    """
    found = {name: fault_of(name, content, (left or {}).get(name)) for name, content in files.items()}
    faults = {name: fault for name, fault in found.items() if fault is not None}
    if "config.json" in files and "config.json" not in faults:
        faults = _code_faults(files) | faults
    if faults:
        raise ValueError(
            f"Nothing was sent: {'; '.join(f'{name} {fault}' for name, fault in sorted(faults.items()))}. Write "
            f"{'it' if len(faults) == 1 else 'them'} again: hf-distill run does so for the student of a recipe. A "
            "change of your own is published from a copy of the folder elsewhere."
        )


def left_by_run(folder: str | Path) -> dict[str, tuple[int, str]]:
    """The size and hash of each file that a run left in a folder of its own, as its record has them; {} without one.

    Args:
        folder: `student` or `cache` of a run.
    """
    folder = Path(folder).resolve()
    try:
        steps = json.loads((folder.parent / ".work" / "record.json").read_text(encoding="utf-8"))["steps"].values()
        files = {name: tuple(entry) for step in steps for name, entry in step["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no run, or a record of another version
        return {}
    own = {name.partition("/")[2]: entry for name, entry in files.items() if name.partition("/")[0] == folder.name}
    own.pop("README.md", None)  # a person may edit it
    return {name: entry for name, entry in own.items() if len(entry) == 2}


def fault_of(name: str, content: Path | bytes, left: tuple[int, str] | None = None) -> str | None:
    """What is wrong with a file, in words that follow its name; None where it is whole as far as it tells.

    Args:
        name: with its suffix.
        content: where it is, or what it holds.
        left: the size and hash that a run left.
    """
    path = content if isinstance(content, Path) else None
    size = path.stat().st_size if path is not None else len(content)  # type: ignore[arg-type]
    base, suffix = name.rpartition("/")[2], Path(name).suffix.lower()
    if not size and base != MODULE_OF_PACKAGE:
        return "is empty"
    if left is not None and path is not None and (size, _hash(path)) != tuple(left):
        return f"is not the file that the run left: {left[0]:,} bytes then, {size:,} now"
    if path is not None and suffix in READERS:
        return READERS[suffix](path)
    if suffix not in (*TEXTS, ".txt", ".md"):
        return None
    try:
        text = path.read_text(encoding="utf-8") if path is not None else bytes(content).decode()
    except UnicodeDecodeError:
        return "is not text in UTF-8"
    if base == "README.md":
        return card_fault(text)
    if base in LINES and not text.endswith("\n"):
        return "was cut: its last line has no end"
    return TEXTS[suffix](name, text) if suffix in TEXTS else None


def card_fault(text: str) -> str | None:
    """What is wrong with a `README.md`; None where it is whole."""
    metadata = FRONT_MATTER.match(text)
    if text.lstrip().startswith("---") and not metadata:
        return "was cut: its metadata has no end"
    if metadata and BEGIN not in text and _is_of_report(metadata[1]) and not USAGE.search(text):
        return "was cut: it does not say how to load the student"
    if BEGIN in text:
        missing = [mark.strip() for mark in (END, CARD_END) if mark not in text]
        if missing:
            return f"was cut: it lacks the line {missing[0]} (where nothing else is missing, add it)"
    return None


def _is_of_report(metadata: str) -> bool:
    try:
        data = yaml.safe_load(metadata)
    except yaml.YAMLError:
        return False
    tags = data.get("tags") if isinstance(data, dict) and "sdk" not in data else None  # a Space has an SDK
    return isinstance(tags, list) and "hf_distill" in tags and "generated_from_trainer" not in tags


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


# Binary files, by their suffix


def _safetensors(path: Path) -> str | None:
    try:
        with safe_open(path, framework="pt") as file:
            return None if any(True for _ in file.keys()) else "holds no tensor"  # noqa: SIM118  it is no dict
    except SafetensorError as error:
        return f"cannot be read ({error})"


def _archive(path: Path) -> str | None:
    """What torch and numpy write is a zip archive, with its table of contents at the end."""
    with path.open("rb") as file:
        begins_as_archive = file.read(2) == b"PK"
    return "was cut" if begins_as_archive and not zipfile.is_zipfile(path) else None


def _picture(path: Path) -> str | None:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 12))
        return None if file.read()[4:8] == b"IEND" else "was cut"


def _arrow(path: Path) -> str | None:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        return None if file.read() == b"\xff\xff\xff\xff\x00\x00\x00\x00" else "was cut"


def _graph(path: Path) -> str | None:
    """Of ONNX: the graph and the operators' version, which stand at its end."""
    return _message(path, {7, 8})


def _pieces(path: Path) -> str | None:
    """Of sentencepiece: pieces, then the settings of the training and the normalizer; other formats are let pass."""
    with path.open("rb") as file:
        if file.read(1) != b"\x0a":
            return None
    return _message(path, {1, 2, 3})


def _message(path: Path, needed: set[int]) -> str | None:
    """A message of protobuf: each field says how long it is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            found = set(_fields(file, size))
        except EOFError:
            return "was cut"
    return None if needed <= found else "was cut: its last parts are missing"


def _fields(file: BinaryIO, size: int) -> Iterator[int]:
    while file.tell() < size:
        key = _number(file)
        yield key >> 3
        kind = key & 7
        if kind == 0:
            _number(file)
        elif kind in (1, 2, 5):
            length = {1: 8, 5: 4}.get(kind) or (_number(file) if kind == 2 else 0)
            if file.tell() + length > size:
                raise EOFError
            file.seek(length, os.SEEK_CUR)
        else:
            raise EOFError


def _number(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise EOFError
        value |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return value


READERS: dict[str, Callable[[Path], str | None]] = {
    ".safetensors": _safetensors,
    ".png": _picture,
    ".arrow": _arrow,
    ".onnx": _graph,
    ".spm": _pieces,
    ".model": _pieces,
    **dict.fromkeys((".bin", ".pt", ".pth", ".npz", ".zip"), _archive),
}


# Texts, by their suffix


def _json(name: str, text: str) -> str | None:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        return f"is not JSON ({error})"
    if name == "config.json" and not (isinstance(content, dict) and {"model_type", "auto_map"} & content.keys()):
        return "is no config: expected its model_type"
    if name.endswith("config.json") and not isinstance(content, dict):
        return f"is no config: expected names and values, got {type(content).__name__}"
    if name == "tokenizer.json" and not (isinstance(content, dict) and isinstance(content.get("model"), dict)):
        return "is no tokenizer: expected its model"
    return None


def _lines_of_json(name: str, text: str) -> str | None:
    faults = (_json("", line) for line in text.splitlines() if line.strip())
    return next((fault for fault in faults if fault), None)


def _yaml(name: str, text: str) -> str | None:
    try:
        return None if yaml.safe_load(text) is not None else "holds nothing"
    except yaml.YAMLError as error:
        return f"is not YAML ({yaml_fault(error)})"


def _python(name: str, text: str) -> str | None:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError) as error:  # ValueError: it has null bytes
        return f"is not Python ({error})"
    return None if text.endswith("\n") or not text else "was cut: its last line has no end"


class _Generation(Extension):
    """The tag with which chat templates of transformers mark what the assistant says."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Any) -> Any:
        parser.stream.expect("name:generation")
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _template(name: str, text: str) -> str | None:
    try:
        Environment(extensions=["jinja2.ext.loopcontrols", _Generation], autoescape=True).parse(text)
    except TemplateSyntaxError as error:
        return f"is no template ({error})"
    return None


TEXTS: dict[str, Callable[[str, str], str | None]] = {
    ".json": _json,
    ".jsonl": _lines_of_json,
    ".ipynb": _json,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".py": _python,
    ".jinja": _template,
}


# What one file needs of another


def _code_faults(files: Mapping[str, Path | bytes]) -> dict[str, str]:
    """Of code that a config names, each file that lacks a class which the config or another file takes from it."""
    wanted: list[tuple[str, str]] = []
    for config in ("config.json", "tokenizer_config.json"):
        wanted += list(_named_code(_content(files[config]))) if config in files else []
    faults, seen = dict[str, str](), set[tuple[str, str]]()
    while wanted:
        module, name = wanted.pop()
        if (module, name) in seen:
            continue
        seen.add((module, name))
        file = f"{module}.py"
        if file not in files:
            faults[file] = f"is missing, from which {name} is loaded"
            continue
        try:
            tree = ast.parse(_content(files[file]))
        except (SyntaxError, ValueError):
            continue  # told already
        defined = set(_names(tree))
        if name not in defined:
            faults[file] = f"was cut: it lacks {name}"
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
                wanted += [(node.module, each.name) for each in node.names]
    return faults


def _content(content: Path | bytes) -> str:
    return content.read_text(encoding="utf-8", errors="replace") if isinstance(content, Path) else content.decode()


def _named_code(config: str) -> Iterator[tuple[str, str]]:
    """The module and the class of each entry of `auto_map`, without those of other repositories."""
    try:
        named = json.loads(config)["auto_map"]
    except (ValueError, KeyError, TypeError):
        return
    for value in named.values() if isinstance(named, dict) else ():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and "--" not in each and "." in each:
                module, _, name = each.rpartition(".")
                yield module, name


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (each.asname or each.name for each in node.names)
