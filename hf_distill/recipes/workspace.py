"""The folder of a run, and the one record of what is done in it.

A step's result counts once its record is written: the named values that the result depends on, and the name, size and
hash of every file of it. Files are written beside their place and renamed; the record is written after them and synced.
So a run that is killed at any moment leaves a result that is whole or one that does not count.

The record is also the mark of a folder, and says which files in it are of a run: whatever else stands where a run
writes is refused. `.work` belongs to the run as a whole.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import datasets

from hf_distill.recipes.files import PART, content_hash, entries, free_name, sync_folder, write_text
from hf_distill.recipes.lock import LOCK, OWNER, one_at_a_time

FORMAT = 2  # of the record; 1 were the files of version 0.1.0
RECORD = "record.json"
CARD = "student/README.md"
EDITABLE = (CARD, "recipe.yaml")  # what a person may change without undoing a step
OLD = ("steps.json", "teacher.fingerprint", "counts.json")  # of version 0.1.0
DAMAGED, EDITED = ".damaged", ".edited"
SET_ASIDE = re.compile(rf"({re.escape(DAMAGED)}|{re.escape(EDITED)})(\.\d+)?$")
WORK = ".work"
BEFORE_THE_RECORD = {LOCK, OWNER, *(f"{name}{PART}" for name in (OWNER, RECORD))}


class Workspace:
    """Folder and record of one run.

    Args:
        folder: `output_dir` of the recipe. Nothing is written before the first result is kept.
    Raises:
        ValueError: the folder holds the run of an older version, or a record that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / WORK
        self.path, self.before = self.work / RECORD, self.work / f"{RECORD}.before"
        self._check_version()
        content = self._read()
        self.steps: dict[str, dict[str, Any]] = content.get("steps", {})
        self.hashes: dict[str, list[Any]] = content.get("hashes", {})
        # Names of files that are of a run, and patterns (with a *) of those.
        left = {name for record in self.steps.values() for name in record["files"]}
        self.made: set[str] = set(content.get("made", left))

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
        content = {"format": FORMAT, "steps": self.steps, "made": sorted(self.made), "hashes": self.hashes}
        if self.path.exists() and _record(self.path) is None:
            self.move_aside(self.path, DAMAGED)
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
        """Let a step count as not done."""
        self.steps.pop(step, None)
        self.save()

    # Whose files these are

    @property
    def is_ours(self) -> bool:
        """Whether the folder bears the mark of a run, its record."""
        return self.path.exists() or self.before.exists()

    def claim(self, names: Iterable[str]) -> None:
        """Record that files are of a run, before they are written.

        Args:
            names: relative to the folder; or patterns, with a `*` for any characters.
        """
        new = set(names) - self.made
        if new:
            self.made |= new
            self.save()

    def check_links(self, names: Iterable[str]) -> None:
        """Raise a ValueError for symbolic links where a run writes, which could lead out of the folder.

        Args:
            names: of files and folders that a run writes, relative to the folder.
        """
        links = [path for path in self._entries(names) if path.is_symlink()]
        if links:
            told = _listed([f"{self._relative(path)} → {os.readlink(path)}" for path in links])
            raise ValueError(
                f"output_dir: {self.folder} has symbolic links where a run writes: {told}. Nothing is written or "
                "deleted through links: choose another output_dir, or move them away."
            )

    def check_foreign(self, names: Iterable[str]) -> None:
        """Raise a ValueError for what a run would replace, and no run made.

        Args:
            names: of files and folders that a run would replace, relative to the folder.
        """
        foreign = [name for name in map(self._relative, self._entries(names)) if not self._is_made(name)]
        if foreign:
            raise ValueError(
                f"output_dir: {self.folder} has {_listed(foreign)} already, not from a run of a recipe. A run would "
                "replace this: choose another output_dir, or move it away."
            )

    def _entries(self, names: Iterable[str]) -> list[Path]:
        return [path for name in (*names, WORK) for path in entries(self.folder / name)]

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _is_made(self, name: str) -> bool:
        if name.startswith(f"{WORK}/"):
            return self.is_ours or name.removeprefix(f"{WORK}/") in BEFORE_THE_RECORD
        name = SET_ASIDE.sub("", name)
        return name in self.made or any("*" in each and fnmatchcase(name, each) for each in self.made)

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
        """Keep other runs out of the folder for a while, and mark it; see `one_at_a_time`.

        Raises:
            ValueError: another run is at work.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self.folder, self.work):
            if not self.is_ours:
                self.save()
            yield

    @property
    def is_current(self) -> bool:
        """Whether the record on disk is still the one that was read."""
        content = self._read()
        return content.get("steps", {}) == self.steps and set(content.get("made", self.made)) == self.made

    # Results

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A new folder that takes the place of `name` once it is whole.

        A run that is killed while the two change places leaves the old one, which comes back the next time.
        """
        target, temporary = self.folder / name, self.work / "new"
        old = self.work / f"replaced-{name.replace('/', '-')}"
        if old.exists() and not target.exists():
            os.replace(old, target)
        for leftover in (temporary, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for path in [path for path in entries(target) if SET_ASIDE.search(path.name)]:  # see `move_aside`
                copy = temporary / path.relative_to(target)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
            sync_folder(temporary)
            self.claim(f"{name}/{path.relative_to(temporary).as_posix()}" for path in entries(temporary))
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                os.replace(target, old)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # of one that failed: a full disk needs the room
        if old.exists():
            shutil.rmtree(old)

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
        """What `write_json` wrote, or the default where it wrote nothing, or the file was cut."""
        try:
            return json.loads((self.work / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return default


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _record(path: Path) -> dict[str, Any] | None:
    """A record of this format; None where a file is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or not all(map(_is_inside, content.get("made", []))):
            return None
        for record in content["steps"].values():
            described = [(name, int(size), str(hashed)) for name, (size, hashed) in record["files"].items()]
            known = isinstance(record["inputs"], dict) and isinstance(record["revision"], int)
            if not known or not all(_is_inside(name) for name, *_ in described):
                return None
        hashes = {name: mark for name, mark in content["hashes"].items() if isinstance(mark, list) and len(mark) == 4}
        return {**content, "hashes": hashes}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # not UTF-8, not JSON, or another JSON
        return None


def _is_inside(name: str) -> bool:
    """Whether the name of a file cannot lead out of its folder."""
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


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
