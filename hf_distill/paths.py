"""Folders, Hub ids, files inside installed packages, and YAML."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_distill.plain_yaml import parse_yaml


def is_hub_id(name: str) -> bool:
    """Whether a name can only mean a Hub repository: it has the form "user/name" or "name", and is no local path.

    >>> is_hub_id("google-bert/bert-base-uncased"), is_hub_id("/data/teacher"), is_hub_id("./teacher")
    (True, False, False)
    """
    if exists(name) or name.startswith((".", "~", "/")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def exists(name: str | Path) -> bool:
    """Whether a file or folder has this name; False too for what cannot be a name, too long for one for instance.

    >>> exists("/"), exists("x" * 5000), exists("a\\0b")
    (True, False, False)
    """
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


@contextmanager
def naming(key: str, name: str) -> Iterator[None]:
    """Name a model or data set, and the key of a recipe, where it cannot be loaded within a `with` block.

    Args:
        key: that names it.
        name: a Hub id, or a path.
    Raises:
        OSError: with the reason in one line, and what to do. Errors of the system, of a full disk for instance, pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        remedy = (
            "Check the name and the connection to the Hub; private and gated repositories need `hf auth login`. A "
            "folder of this machine does as well."
            if is_hub_id(name)
            else "Check the folder."
        )
        raise OSError(f"{key}: {name} cannot be loaded. {reason}. {remedy}") from error


PACKAGE = "package:"


def resolve(path: str) -> str:
    """The file that `package:name/path` names inside an installed package; any other path or Hub id unchanged.

    Args:
        path: a local path, a Hub id, or `package:name/path`.
    Raises:
        ValueError: the package or the file does not exist, or the file is outside the package.
    """
    if not path.startswith(PACKAGE):
        return path
    package, _, inside = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() and package != "__main__" else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{path}: the package {package!r} is not installed. Install it with pip.")
    found = Path(next(iter(spec.submodule_search_locations))) / inside
    if Path(inside).is_absolute() or ".." in Path(inside).parts or not exists(found):
        raise ValueError(f"{path}: the package {package!r} has no file {inside!r}.")
    return str(found)


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file, as plain Python values.

    Args:
        path: of the file.
    Raises:
        ValueError: the file is not text in UTF-8, or no YAML as `parse_yaml` reads it. The message is one line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8. {error}. Save it as UTF-8, or move it away.") from error
    return parse_yaml(text, str(path), "Mend it, or move it away")


def name_of(path: str) -> str:
    """A name that is safe to publish: a Hub id unchanged, the name of a package, or the last part of a local path."""
    if path.startswith(PACKAGE):
        return path.removeprefix(PACKAGE).partition("/")[0]
    return Path(path).name if exists(path) else path


def local(path: str) -> str:
    """A Hub id unchanged; a local path as `./name`, so that it cannot be mistaken for a Hub id."""
    return f"./{name_of(path)}" if path.startswith(PACKAGE) or exists(path) else path
