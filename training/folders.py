"""The folder of a training run: its settings are checked, its result appears in one move.

Where ``accelerate launch`` started several processes the main one writes, and the others wait.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import PartialState

from mfenv.dynamics.journal import RunLock
from mfenv.errors import MfenvError

__all__ = ["check_settings", "in_one_move", "one_run"]

# What the libraries say of a disk or a quota that is full; torch gives no error number.
_FULL = ("No space left", "Disk quota exceeded", "File too large", "file write failed")


def check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Write ``config.json``; refuse to go on with a run of other settings, data or backbone."""
    path = out / "config.json"
    text = json.dumps(dict(settings), indent=1, sort_keys=True)
    with PartialState().main_process_first():
        out.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            raise MfenvError(
                f"{path} holds a run with other settings, data or backbone; use another --out or "
                f"delete the folder"
            )


@contextmanager
def one_run(out: Path) -> Iterator[None]:
    """One run at a time in a folder, of however many processes; says so where the disk is full.

    Raises ``MfenvError`` where another run is at work, or a checkpoint could not be written.
    """
    with RunLock(out) if PartialState().is_main_process else nullcontext():
        try:
            yield
        except Exception as error:  # the tokenizers library raises nothing more special
            if not any(sign in str(error) for sign in _FULL):
                raise
            raise MfenvError(
                f"{out}: nothing more can be written there ({str(error)[:200]}); make room and run "
                "the same command again: it goes on from the last whole checkpoint"
            ) from error


@contextmanager
def in_one_move(folder: Path) -> Iterator[Path]:
    """A folder to write to, which becomes ``folder`` at the end.

    All processes come here; only the main one may write.
    """
    state, part = PartialState(), folder.with_name(folder.name + ".part")
    if state.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    state.wait_for_everyone()
    yield part
    state.wait_for_everyone()
    if state.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    state.wait_for_everyone()
