"""The processes that run one recipe: what the main one does alone, and errors that all of them raise.

Every process goes through the same code in the same order. Trainings and the cache pass are shared out by transformers
and `soft_targets`; whatever writes files is done by the main process alone, while the others wait and then read.
"""

import datetime
import itertools
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from torch import distributed

from hf_distill.environment import accelerator
from hf_distill.recipes.workspace import Workspace
from hf_distill.soft_targets.shards import ALONE

Result = TypeVar("Result")
# Of collective operations. Within it the others wait for a process that writes a shard of the cache or a control alone;
# a process that ends or fails is noticed at once.
PATIENCE = datetime.timedelta(days=1)
LOOK = 1.0  # seconds between two looks for a failure of another process
RUNS = itertools.count()  # of this process, each with a notice of failure of its own
TOLD = (ValueError, OSError, ImportError)  # errors that a user can mend, told in one line
# How accelerate is told of engines that cut a model into pieces.
ENGINES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism within a model",
}
SEEN = "seen.json"
SHOWS_LATE = 60.0  # seconds after which a shared disk shows what another machine has written


class Processes:
    """This process alone, until `assembled` finds others.

    Attributes:
        number: of this process, 0 is the main one.
        size: how many they are; 1 after `leave`.
        launched: how many they were.
    """

    def __init__(self, number: int = 0, size: int = 1) -> None:
        self.number, self.size, self.launched = number, size, size
        self._words: Any = None  # the group that objects and errors are sent through
        self._ends = False  # whether torch's process group is ended with the run
        self._failures: Failures | None = None

    @classmethod
    def assembled(cls) -> "Processes":
        """The processes that `accelerate launch` or `torchrun` started with this one.

        Raises:
            ValueError: they were started for an engine that cuts models into pieces, or each for itself.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        engine = next((name for key, name in ENGINES.items() if os.environ.get(key, "").lower() == "true"), None)
        if engine is not None:
            raise ValueError(
                f"The launch asks for {engine}, and a recipe trains data-parallel: its students are small. Launch it "
                "with examples/accelerate/ddp.yaml; for a teacher that is too large for each process set "
                "teacher.placement: shard."
            )
        theirs = distributed.is_initialized()  # by a script around the run, which ends it too
        state = PartialState(cpu=accelerator() is None, timeout=PATIENCE)
        if state.num_processes != size:
            raise ValueError(
                f"WORLD_SIZE is {size}, and torch sees {state.num_processes} process. Launch the recipe by `accelerate "
                "launch --multi_gpu` or `torchrun`, which start all of them, or unset WORLD_SIZE."
            )
        made = cls(state.process_index, state.num_processes)
        made._ends = not theirs
        made._words = distributed.new_group(backend="gloo", timeout=PATIENCE)
        made._failures = Failures(made.number, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        return made

    @property
    def is_main(self) -> bool:
        """Whether this one writes files."""
        return self.number == 0

    def workspace(self, folder: Path) -> Workspace:
        """The folder of the run, which only the main process writes to."""
        return Workspace(folder) if self.is_main else ReadWorkspace(folder)

    def gathered(self, value: Any) -> list[Any]:
        """What each process has, in their order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value, group=self._words)
        return found

    def wait(self) -> None:
        """Wait until all have come here."""
        self.gathered(None)

    def on_main(self, work: Callable[[], Result]) -> Result:
        """What the main process alone makes, for all; whatever it raises, all raise.

        Args:
            work: the same for all processes. Within it the main process counts as the only one.
        """
        if self.size == 1 or ALONE.get():
            return work()
        return self._shared(work if self.is_main else None, send=True)[0]

    def together(self, work: Callable[[], Result]) -> Result:
        """What this process makes, once all have made theirs; whatever one of them raises, all raise.

        Args:
            work: the same for all processes; it waits for no other.
        """
        if self.size == 1 or ALONE.get():
            return work()
        return self._shared(work, send=False)[0]

    def _shared(self, work: Callable[[], Any] | None, send: bool) -> list[Any]:
        """What the processes make; only their errors are exchanged unless the results are to be sent."""
        result, told, whole = None, None, False
        before = ALONE.set(True)  # what it calls waits for no other process
        try:
            result = None if work is None else work()
            whole = True
        finally:
            ALONE.reset(before)
            error = None if whole else sys.exception()
            told = None if error is None else (isinstance(error, TOLD), f"{error}" or type(error).__name__)
            outcomes = self.gathered((result if send and whole else None, told))
        failed = [(number, told) for number, (_, told) in enumerate(outcomes) if told is not None]
        if failed:
            if self._failures is not None:  # all end by this error
                self._failures.stop()
            number, (known, text) = failed[0]
            raise ValueError(text) if known else RuntimeError(f"Process {number} of {self.size} failed: {text}")
        return [result for result, _ in outcomes] if send else [result]

    @contextmanager
    def locked(self, workspace: Workspace) -> Iterator[None]:
        """The folder locked by the main process; see `Workspace.locked`."""
        with ExitStack() as stack:
            self.on_main(lambda: stack.enter_context(workspace.locked()))
            before = ALONE.get()
            try:
                yield
            finally:
                if not self._ends:  # a script that goes on with the same processes
                    ALONE.set(before)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """While it lasts, an error of this process is told to the others with the name of the step, and ends them."""
        if self._failures is not None:
            self._failures.step = name
        whole = False
        try:
            yield
            whole = True
        finally:
            error = None if whole else sys.exception()
            if error is not None and self._failures is not None:
                where = f"{name}, process {self.number} of {self.size} on {platform.node()}"
                error.add_note(where)
                self._failures.tell(f"{where}: {error}")

    def check_folder(self, workspace: Workspace) -> None:
        """Raise a ValueError where a process does not see the files that the main one writes.

        Args:
            workspace: of the run, locked by the main process.
        """
        if self.size == 1:
            return
        token = self.on_main(lambda: os.urandom(16).hex())
        workspace.write_json(SEEN, token)
        self.wait()
        right = _appears(lambda: workspace.read_json(SEEN) == token)
        seen = self.gathered((platform.node(), str(workspace.folder.resolve()), right))
        if self.is_main:
            (workspace.work / SEEN).unlink(missing_ok=True)
        blind = [number for number, (*_, right) in enumerate(seen) if not right]
        if blind:
            told = "; ".join(
                f"process {number} on {host}: {folder}, {'the file' if right else 'no such file'}"
                for number, (host, folder, right) in enumerate(seen)
            )
            raise ValueError(
                f"output_dir: the main process wrote a file, and {len(blind)} of {self.size} processes do not see it "
                f"({told}). Choose an output_dir on a disk that all machines share, by the same absolute path."
            )

    def check_equal(self, what: str, values: dict[str, Any]) -> None:
        """Raise a ValueError where a process has other values than the main one.

        Args:
            what: they are, in words.
            values: by their names.
        """
        for number, other in enumerate(found := self.gathered(values)):
            names = sorted(name for name in found[0].keys() | other.keys() if found[0].get(name) != other.get(name))
            if names:
                raise ValueError(
                    f"{what}: process {number} has another {', '.join(names[:3])} than process 0 "
                    f"({other.get(names[0])!r}, {found[0].get(names[0])!r}). Give all machines the same files, "
                    "packages and kind of hardware."
                )

    def leave(self) -> None:
        """End what is shared; from here on the main process is the only one."""
        if self._failures is not None:
            self._failures.stop()
        if self.size > 1:
            self.wait()
            ALONE.set(True)
            if self._ends:
                distributed.destroy_process_group()
        self.size, self._words, self._failures = 1, None, None


class ReadWorkspace(Workspace):
    """The folder of a run as all processes but the main one have it: nothing is written."""

    def save(self) -> None:
        """Nothing: the main process writes the record."""

    def finish(self, *arguments: Any, **measured: Any) -> None:
        """Nothing: the main process records what is done."""

    def write_json(self, name: str, content: Any) -> None:
        """Nothing: the main process writes it."""


def _appears(there: Callable[[], bool]) -> bool:
    """Whether something is there, now or within a minute: shared disks show other machines' files late."""
    end = time.monotonic() + SHOWS_LATE
    while not there():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


class Failures:
    """Tells the other processes of a failure, and ends this one when another has failed.

    The others may be in the middle of an operation that waits for the one that failed, on another machine.

    Args:
        number: of this process.
        host: of the store that the launcher opened.
        port: of the store.
        end: called with a line when another process has failed. None: this process ends.
        run: its number among those of this launch. None: the next one.
    """

    def __init__(
        self, number: int, host: str, port: int, end: Callable[[str], None] | None = None, run: int | None = None
    ) -> None:
        self.number, self.step = number, "start"
        self._end = self._ended if end is None else end
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._key = f"hf_distill/failed/{attempt}/{next(RUNS) if run is None else run}"
        self._store = distributed.TCPStore(host, port, is_master=False, timeout=datetime.timedelta(seconds=30))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def tell(self, line: str) -> None:
        """Tell the others that this process has failed."""
        self.stop()
        with suppress(RuntimeError):  # the store has ended with its launcher
            self._store.set(self._key, line)

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        with suppress(RuntimeError):
            while not self._stopped.wait(LOOK):
                if self._store.check([self._key]):
                    self._end(self._store.get(self._key).decode())
                    return

    def _ended(self, line: str) -> None:
        sys.stderr.write(f"hf-distill: process {self.number} ends in step {self.step}, since another failed: {line}\n")
        sys.stderr.flush()
        os._exit(1)
