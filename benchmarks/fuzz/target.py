"""What a fuzz target is, and what counts as a finding."""

from __future__ import annotations

import json
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from mfenv.errors import MfenvError

__all__ = [
    "LONGEST",
    "PATIENCE",
    "Finding",
    "Target",
    "fault_of",
    "pack",
    "pick",
    "seeded",
    "text_of",
    "unpack",
]

LONGEST = 1000
"""Most characters of a message: what a stranger wrote is cut before it is quoted."""

PATIENCE = 30
"""Seconds of CPU time after which reading one small input counts as hanging."""

_ASLEEP = 20 * PATIENCE  # seconds by the clock, for a reader that waits; machines may be busy

_ROOTS = ("mfenv", "agents", "training", "benchmarks")


@dataclass(frozen=True, slots=True)
class Target:
    """A reader, with inputs for it.

    ``make`` draws an input: bytes from which ``read`` can do everything again, so that an input
    that was kept on disk is a test. ``read`` takes it in a folder of its own, which it leaves as it
    was. It raises an error that is documented, ``AssertionError`` where what it read breaks a
    promise, and anything else where the reader has a fault.
    """

    name: str
    what: str
    make: Callable[[Random], bytes]
    read: Callable[[bytes, Path], None]
    share: float
    """Part of all inputs that it gets; cheap readers get more."""
    documented: tuple[type[BaseException], ...] = (MfenvError,)
    packed: bool = False
    """Whether an input is several files (:func:`pack`), which no engine may change as bytes."""
    longest: float = LONGEST
    """Most characters of an error's message. Not bounded where the person typed what is quoted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What went wrong, known by the kind of error and the line of ours that it came from."""

    kind: str
    where: str
    message: str

    @property
    def key(self) -> str:
        """Equal for the same fault."""
        return f"{self.kind} at {self.where}"


def seeded(target: str, seed: int, index: int) -> Random:
    """The chance behind one input, which is the same in every order and process."""
    return Random(f"mfenv-fuzz/{target}/{seed}/{index}")


def fault_of(target: Target, data: bytes, folder: Path) -> Finding | None:
    """Read an input; ``None`` where nothing happened but an error that is documented."""
    try:
        with _limited(PATIENCE):
            target.read(data, folder)
    except target.documented as error:
        problem = _unreadable(error, target.longest)
        return None if problem is None else _finding(error, problem)
    except (Exception, RecursionError, MemoryError) as error:
        return _finding(error, str(error))
    return None


def _unreadable(error: BaseException, longest: float) -> str | None:
    """What is wrong with a message for a person; ``None`` where nothing is."""
    text = str(error)
    if not text:
        return "the message is empty"
    if len(text) > longest:
        return f"the message has {len(text)} characters: {text[:200]!r}"
    return None


def _finding(error: BaseException, message: str) -> Finding:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if any(f"/{root}/" in f.filename for root in _ROOTS)]
    ours = [f for f in ours if "site-packages" not in f.filename] or frames[-1:]
    last = ours[-1]
    root = next((r for r in _ROOTS if f"/{r}/" in last.filename), "")
    name = f"{root}/{last.filename.rpartition(f'/{root}/')[2]}" if root else last.filename
    return Finding(type(error).__name__, f"{name}:{last.lineno}", message[:400])


class _Hangs(Exception):
    """A reader took too long."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Interrupt what takes too long. Signals are of the main thread."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise _Hangs(f"no end within {seconds:g} s")

    before = [signal.signal(number, ring) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, _ASLEEP)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGALRM, before[1])


def pack(files: dict[str, bytes]) -> bytes:
    """Several files as one input."""
    return json.dumps({name: data.decode("latin-1") for name, data in files.items()}).encode()


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of an input."""
    try:
        value: dict[str, Any] = json.loads(data)
    except ValueError:  # an engine may try bytes of its own first
        return {}
    if not isinstance(value, dict):
        return {}
    return {name: text.encode("latin-1") for name, text in value.items()}


def text_of(data: bytes) -> str:
    """An input as text; half a character stays one, other bytes become replacement characters."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def pick(random: Random, values: Sequence[Any]) -> Any:
    """One of them; cheaper than ``choice``."""
    return values[int(random.random() * len(values))]
