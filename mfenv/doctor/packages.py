"""The packages of the core and of each extra, by the metadata of what is installed.

Nothing is imported: a package that is there but broken still counts as installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mfenv.errors import MfenvError

__all__ = ["CORE", "Extra", "Package", "install_command", "read_extra", "read_extras"]

CORE = "core"
_OURS = "mfenv"


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution that is asked for."""

    name: str
    needed: str
    """The versions that are allowed, such as ``<2,>=1.16``; empty for any."""
    installed: str | None

    @property
    def problem(self) -> str | None:
        """What is wrong with it, or ``None``."""
        if self.installed is None:
            return f"{self.name} is missing" + (f" (needs {self.needed})" if self.needed else "")
        if not SpecifierSet(self.needed).contains(self.installed, prereleases=True):
            return f"{self.name} {self.installed} is installed (needs {self.needed})"
        return None


@dataclass(frozen=True, slots=True)
class Extra:
    """The core (:data:`CORE`) or an extra, with all packages that it asks for directly."""

    name: str
    packages: tuple[Package, ...]

    @property
    def problems(self) -> list[str]:
        """What is wrong with its packages; empty where it is installed."""
        return [p.problem for p in self.packages if p.problem is not None]


def install_command(extra: str) -> str:
    """The command that installs an extra, or the core."""
    return "pip install mfenv" if extra == CORE else f"pip install '{_OURS}[{extra}]'"


def read_extras() -> list[Extra]:
    """The core and every extra, in the order of pyproject.toml."""
    return [read_extra(name) for name in (CORE, *_names())]


def read_extra(name: str) -> Extra:
    """One extra, those that it includes with it; ``MfenvError`` names the known ones."""
    if name != CORE and name not in _names():
        raise MfenvError(f"unknown extra {name!r}; known: {', '.join(_names())}")
    needed: dict[str, tuple[str, SpecifierSet]] = {}
    for requirement in _direct(_OURS, "" if name == CORE else name, set()):
        key = canonicalize_name(requirement.name)
        shown, specifiers = needed.get(key, (requirement.name, SpecifierSet()))
        needed[key] = (shown, specifiers & requirement.specifier)
    packages = (Package(shown, str(s), _version(shown)) for shown, s in needed.values())
    return Extra(name, tuple(packages))


def _names() -> list[str]:
    try:
        return metadata.metadata(_OURS).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        raise MfenvError(
            "mfenv is imported from a folder that is not installed, so its extras are not known; "
            "install it: pip install -e . (in that folder)"
        ) from None


def _direct(distribution: str, extra: str, seen: set[tuple[str, str]]) -> Iterator[Requirement]:
    """What a distribution asks for with an extra (``""``: without one).

    An extra of another distribution (``trl[vllm]``) is followed where that one is installed; what
    it would ask for otherwise is not known.
    """
    if (distribution, extra) in seen:
        return
    seen.add((distribution, extra))
    try:
        texts = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        asked = (
            always
            if not extra
            else not always and bool(marker and marker.evaluate({"extra": extra}))
        )
        if not asked:
            continue
        name = canonicalize_name(requirement.name)
        if name != _OURS:
            yield requirement
        for nested in sorted(requirement.extras):
            yield from _direct(name, nested, seen)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
