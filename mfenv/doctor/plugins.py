"""What is registered by entry points, and whether it can be loaded."""

from __future__ import annotations

import contextlib
import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from mfenv.errors import MissingExtraError, ShadowedPackageError
from mfenv.plugins import load_entry

__all__ = ["GROUPS", "Found", "read_plugins"]

GROUPS = (
    "backbones",
    "methods",
    "planners",
    "surrogates",
    "annotators",
    "opinions",
    "executors",
    "commands",
)


@dataclass(frozen=True, slots=True)
class Found:
    """A registered name."""

    group: str
    """One of :data:`GROUPS`."""
    name: str
    distribution: str
    """Who registered it, with its version."""
    ours: bool
    extra: str | None = None
    """The extra that it needs and that is not installed."""
    error: str | None = None
    """Why it cannot be loaded otherwise."""
    shadowed: bool = False
    """Another package stands where one of mfenv's should be."""


def read_plugins() -> list[Found]:
    """Load every registered name, in the order of the groups and names.

    What a plugin prints while it is imported goes to stderr, and a plugin that fails in any way is
    told with its error.
    """
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            _try(group, entry)
            for group in GROUPS
            for entry in sorted(entry_points(group=f"mfenv.{group}"), key=lambda e: e.name)
        ]


def _try(group: str, entry: EntryPoint) -> Found:
    name, dist = entry.name, entry.dist
    by = "unknown" if dist is None else f"{dist.name} {dist.version}"
    ours = dist is not None and dist.name == "mfenv"
    try:
        load_entry(entry)
    except MissingExtraError as error:
        return Found(group, name, by, ours, extra=error.extra)
    except (Exception, SystemExit) as error:  # whatever somebody else's module does
        text = f"{type(error).__name__}: {error}"
        shadowed = isinstance(error, ShadowedPackageError)
        return Found(group, name, by, ours, error=text, shadowed=shadowed)
    return Found(group, name, by, ours)
