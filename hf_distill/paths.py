"""Folders, Hub ids, and files inside installed packages."""

import importlib.util
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def is_hub_id(name: str) -> bool:
    """Whether a name can only mean a repository on the Hub: "user/name" or "name", and no folder here is called that.

    >>> is_hub_id("google-bert/bert-base-uncased"), is_hub_id("/data/teacher"), is_hub_id("./teacher")
    (True, False, False)
    """
    if Path(name).exists() or name.startswith((".", "~", "/")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


PACKAGE = "package:"


def resolve(path: str) -> str:
    """A path or Hub id as it is, or `package:name/path` as the file in that installed package.

    Raises:
        ValueError: the package or the file is not there.
    """
    if not path.startswith(PACKAGE):
        return path
    package, _, inside = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{path}: the package {package!r} is not installed. Install it with pip.")
    found = Path(next(iter(spec.submodule_search_locations))) / inside
    if not found.exists():
        raise ValueError(f"{path}: the package {package!r} has no file {inside!r}.")
    return str(found)


def read_yaml(path: str | Path) -> Any:
    """The plain values of a YAML file.

    Args:
        path: of the file.
    Raises:
        ValueError: it is no YAML; one line.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: expected YAML. {' '.join(str(error).split())}. Mend it, or move it away.") from error


def name_of(path: str) -> str:
    """A Hub id as it is, and of a file only what says nothing about this machine."""
    if path.startswith(PACKAGE):
        return path.removeprefix(PACKAGE).partition("/")[0]
    return Path(path).name if Path(path).exists() else path


def local(path: str) -> str:
    """A Hub id as it is; anything else with a dot before it, so that nobody takes it for one."""
    return f"./{name_of(path)}" if path.startswith(PACKAGE) or Path(path).exists() else path
