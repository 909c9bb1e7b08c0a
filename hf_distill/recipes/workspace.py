"""The folder of a run, and the one record of what is done in it.

A step's result counts once its record is written: the named values that the result depends on, and the name, size and
hash of every file of it. Files are written beside their place and renamed; the record is written after them and synced.
So a run that is killed at any moment leaves a result that is whole or one that does not count.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock, Timeout

FORMAT = 2  # of the record; 1 were the files of version 0.1.0
RECORD = "record.json"
CARD = "student/README.md"
EDITABLE = (CARD, "recipe.yaml")  # what a person may change without undoing a step
OLD = ("steps.json", "teacher.fingerprint", "counts.json")  # of version 0.1.0
DAMAGED, EDITED = ".damaged", ".edited"
PART, REPLACED = ".part", ".replaced"


class Workspace:
    """Folder and record of one run.

    Args:
        folder: `output_dir` of the recipe. Nothing is written before the first result is kept.
    Raises:
        ValueError: the folder holds the run of an older version, or a record that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / ".work"
        self.path, self.before = self.work / RECORD, self.work / f"{RECORD}.before"
        self._check_version()
        content = self._read()
        self.steps: dict[str, dict[str, Any]] = content.get("steps", {})
        self.hashes: dict[str, list[Any]] = content.get("hashes", {})

    def _check_version(self) -> None:
        if not self.path.exists() and any((self.work / name).exists() for name in OLD):
            raise ValueError(
                f"output_dir: {self.folder} holds a run of an older version of hf_distill. It is kept as it is and "
                "cannot be continued: choose another output_dir, or move the folder away."
            )

    def _read(self) -> dict[str, Any]:
        """The record, or the one before it where the last one was cut."""
        there = [path for path in (self.path, self.before) if path.exists()]
        for path in there:
            content = _record(path)
            if content is not None:
                return content
            self.move_aside(path, DAMAGED)
        if there:
            raise ValueError(
                f"{self.path}: expected the record of a run of this version of hf_distill (format {FORMAT}), got "
                "something else. Choose another output_dir, or move the folder away."
            )
        return {}

    # The record

    def save(self) -> None:
        """Write the record, whole and synced."""
        self.work.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "steps": self.steps, "hashes": self.hashes}
        if self.path.exists():
            write_text(self.before, self.path.read_text(encoding="utf-8"))
        write_text(self.path, json.dumps(content, indent=1))

    def changes(self, step: str, inputs: Mapping[str, Any], revision: int) -> list[str] | None:
        """Which inputs of a finished step have changed, in words; None where the step is not done.

        Args:
            step: its name.
            inputs: named values, as they are now.
            revision: of the step's code.
        """
        record = self.steps.get(step)
        if record is None:
            return None
        found = [] if record["revision"] == revision else [f"its code {record['revision']} → {revision}"]
        before, now = record["inputs"], plain(inputs)
        for name in sorted(before.keys() | now.keys()):
            if name not in now:
                found.append(f"{name} {shown(before[name])} → not set")
            elif name not in before:
                found.append(f"{name} not set → {shown(now[name])}")
            elif before[name] != now[name]:
                found.append(f"{name} {shown(before[name])} → {shown(now[name])}")
        return found

    def finish(
        self,
        step: str,
        inputs: Mapping[str, Any],
        revision: int,
        patterns: Iterable[str],
        keep: Mapping[str, Any] | None = None,
        **measured: Any,
    ) -> None:
        """Record that a step is done.

        Args:
            step: its name.
            inputs: what its result depends on.
            revision: of the step's code.
            patterns: of the files of its result, relative to the folder.
            keep: what to record of files that a person changed.
            measured: seconds and the like.
        """
        files = {
            path.relative_to(self.folder).as_posix(): self._described(path)
            for pattern in patterns
            for path in sorted(self.folder.glob(pattern))
            if path.is_file() and DAMAGED not in path.name and EDITED not in path.name
        }
        files |= {name: content for name, content in (keep or {}).items() if name in files}
        self.steps[step] = {"inputs": plain(inputs), "revision": revision, "files": files, **measured}
        self.save()

    def forget(self, step: str) -> None:
        """Let a step count as not done; from here on the folder counts as this run's."""
        self.steps.pop(step, None)
        self.save()

    @property
    def is_ours(self) -> bool:
        """Whether a run has recorded anything in the folder."""
        return self.path.exists() or self.before.exists()

    def damaged(self, step: str, verify: bool = False) -> list[Path]:
        """The files of a finished step that are missing, or are not those that it left.

        Names, sizes and times are compared; a file's content where these differ.

        Args:
            step: its name.
            verify: whether the content of all files is compared.
        """
        found = []
        for name, (size, content) in self.steps[step]["files"].items():
            path = self.folder / name
            if name in EDITABLE and path.exists():  # a person may change these
                continue
            if not path.is_file() or path.stat().st_size != size or self.hash_of(path, anew=verify) != content:
                found.append(path)
        return found

    def edited(self) -> dict[str, Any]:
        """The files that a person changed after a step wrote them, with what the step's record says of each."""
        return {
            name: record["files"][name]
            for record in self.steps.values()
            for name in EDITABLE
            if name in record["files"]
            and (self.folder / name).exists()
            and self._described(self.folder / name) != record["files"][name]
        }

    def move_aside(self, path: Path, ending: str) -> Path:
        """Move a file, where it exists, out of the way and beside its place: damaged, or edited by a person."""
        free = free_name(path.with_name(path.name + ending))
        if path.exists():
            os.replace(path, free)
        return free

    def _described(self, path: Path) -> list[Any]:
        return [path.stat().st_size, self.hash_of(path)]

    def hash_of(self, path: Path, anew: bool = False) -> str:
        """A hash of a file's content, remembered by its path, size, time and inode.

        Args:
            path: of the file.
            anew: whether to read the file in any case.
        """
        state = path.stat()
        key, mark = str(path.resolve()), [state.st_size, state.st_mtime_ns, state.st_ino]
        if anew or self.hashes.get(key, [None])[:-1] != mark:
            self.hashes[key] = [*mark, content_hash(path)]
        return self.hashes[key][-1]

    # One run at a time

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder for a while; the lock of a process that was killed does not count.

        Raises:
            ValueError: another run is at work.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        owner = self.work / "owner.json"
        lock = FileLock(self.work / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"output_dir: another run is at work in {self.folder} ({_owner(owner)}). Wait for it, or choose "
                "another output_dir."
            ) from error
        try:
            about = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            write_text(owner, json.dumps(about))
            yield
            owner.unlink(missing_ok=True)
        finally:
            lock.release()

    @property
    def is_current(self) -> bool:
        """Whether the record on disk is still the one that was read."""
        return self._read().get("steps", {}) == self.steps

    # Results

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A new folder that takes the place of `name` once it is whole."""
        target, temporary = self.folder / name, self.folder / f"{name}{PART}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for path in [*target.glob(f"*{DAMAGED}*"), *target.glob(f"*{EDITED}*")]:  # see `move_aside`
            os.replace(path, temporary / path.name)
        sync_folder(temporary)
        if target.exists():
            old = self.folder / f"{name}{REPLACED}"
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)

    def write_json(self, name: str, content: Any) -> None:
        """Keep plain data in a file of `.work`, whole or not at all."""
        self.work.mkdir(parents=True, exist_ok=True)
        write_text(self.work / name, json.dumps(content))

    def kept(self, name: str, inputs: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """Plain data that is made once, and again when what it depends on has changed.

        Args:
            name: of its file in `.work`.
            inputs: what it depends on.
            make: makes it.
        """
        path, now = self.work / f"{name}.json", digest(inputs)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or cut
            content = None
        if not isinstance(content, dict) or content.get("of") != now:
            content = {"of": now, "value": make()}
            self.write_json(path.name, content)
        return content["value"]

    def read_json(self, name: str, default: Any = None) -> Any:
        """What `write_json` wrote, or the default where it wrote nothing."""
        path = self.work / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def _owner(path: Path) -> str:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return f"process {about['process']} on {about['host']}, since {about['since']}"
    except (OSError, ValueError, KeyError):  # not written yet
        return "started just now"


def _record(path: Path) -> dict[str, Any] | None:
    """A record of this format; None where a file is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # of text that is not UTF-8, or not JSON
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, sync it, and rename it."""
    temporary = path.with_name(path.name + PART)
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    os.replace(temporary, path)


def sync(path: Path) -> None:
    """Have the system write a file to its disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the system write all files of a folder to its disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)


def content_hash(path: Path) -> str:
    """A hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def free_name(path: Path) -> Path:
    """The path, or the first of `path.2`, `path.3` and so on that is free."""
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f"{path.name}.{number}"), number + 1
    return free


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def digest(value: Any) -> str:
    """A hash of a value's canonical JSON."""
    return hashlib.blake2b(json.dumps(plain(value), sort_keys=True).encode(), digest_size=16).hexdigest()


def named(key: str, value: Any) -> dict[str, Any]:
    """A nested value as dotted names with plain values.

    >>> named("distill", {"temperature": 2.0, "matching": [{"kind": "hidden_states"}]})
    {'distill.temperature': 2.0, 'distill.matching.0.kind': 'hidden_states'}
    """
    if isinstance(value, Mapping) and value:
        return {name: leaf for inner in value for name, leaf in named(f"{key}.{inner}", value[inner]).items()}
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        return named(key, {str(number): each for number, each in enumerate(value)})
    return {key: value}


def rows_digest(rows: datasets.Dataset) -> str:
    """A hash of the rows of a data set, whatever file they came from."""
    return digest(rows.to_dict())


def shown(value: Any) -> str:
    """A value of the record for a reader: hashes are cut short."""
    text = value if isinstance(value, str) else json.dumps(value)
    hashed = len(text) == 32 and not text.strip("0123456789abcdef")
    return text[:8] if hashed else text if len(text) <= 60 else f"{text[:57]}..."
