"""The folder of a training run: its settings are checked, its result appears in one move."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mfenv.errors import MfenvError

__all__ = ["check_settings", "in_one_move"]


def check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Write ``config.json``; refuse to go on with a run of other settings, data or backbone."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.json"
    text = json.dumps(dict(settings), indent=1, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise MfenvError(
            f"{path} holds a run with other settings, data or backbone; use another --out or "
            f"delete the folder"
        )
    path.write_text(text, encoding="utf-8")


@contextmanager
def in_one_move(folder: Path) -> Iterator[Path]:
    """A folder to write to, which becomes ``folder`` at the end."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
