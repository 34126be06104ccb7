"""The machine: cores, memory, accelerators, disk, and a browser for the tests of the site."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

__all__ = ["Accelerator", "Machine", "read_machine"]

_GIB = 2**30
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What torch can compute on beside the CPU."""

    kind: str
    """``cuda`` (ROCm's devices have this name, too) or ``mps``."""
    name: str
    memory_gib: float | None


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to compute with."""

    python: str
    system: str
    cores: int
    """Those that this process may use."""
    memory_gib: float | None
    accelerators: tuple[Accelerator, ...]
    torch: bool
    """Whether torch is installed."""
    torch_problem: str | None
    """Why torch cannot be imported, or cannot use a GPU that is there."""
    disk_folder: str
    disk_free_gib: float
    browser: str | None
    """A Chromium, which only the tests of the leaderboard's site need."""


def read_machine(runs: Path) -> Machine:
    """Look at the machine; ``runs`` is the folder that results are going to be written to.

    torch is imported only where it is installed.
    """
    accelerators, problem = _accelerators()
    folder = runs.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=_cores(),
        memory_gib=_memory(),
        accelerators=accelerators,
        torch=find_spec("torch") is not None,
        torch_problem=problem,
        disk_folder=str(folder),
        disk_free_gib=shutil.disk_usage(folder).free / _GIB,
        browser=next((p for name in _BROWSERS if (p := shutil.which(name))), None),
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: a container may have fewer than the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> float | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None


def _accelerators() -> tuple[tuple[Accelerator, ...], str | None]:
    driver = shutil.which("nvidia-smi") is not None
    if find_spec("torch") is None:
        return (), "an NVIDIA driver is here, but torch is not installed" if driver else None
    try:
        import torch

        if torch.cuda.is_available():
            every = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
            return tuple(Accelerator("cuda", d.name, d.total_memory / _GIB) for d in every), None
        if torch.backends.mps.is_available():
            return (Accelerator("mps", platform.processor() or "Apple GPU", None),), None
    except Exception as error:  # a torch that does not fit the machine fails in many ways
        return (), f"torch cannot be used: {type(error).__name__}: {error}"
    if driver:
        return (), f"an NVIDIA driver is here, but torch {torch.__version__} does not find a GPU"
    return (), None
