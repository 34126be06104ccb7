"""Finding things by name through entry points, so that any package can add some.

Groups: ``mfenv.commands`` (CLI commands), ``mfenv.backbones``, ``mfenv.methods``,
``mfenv.annotators``, ``mfenv.executors`` and ``mfenv.planners``. ``mfenv`` never imports those
packages by name.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from mfenv.errors import MfenvError, MissingExtraError, ShadowedPackageError

__all__ = ["build", "load", "load_entry", "missing_extra", "names"]

_OURS = ("agents", "training", "benchmarks")
# Import names of optional dependencies, and the extra that brings each.
_EXTRAS = {
    "torch": "llm",
    "transformers": "llm",
    "tokenizers": "llm",
    "jinja2": "llm",
    "trl": "training",
    "peft": "llm",
    "datasets": "training",
    "accelerate": "training",
    "tensorboard": "training",
    "sklearn": "training",
    "scipy": "training",  # scikit-learn's
    "numba": "fast",
    "matplotlib": "reports",
    "openai": "serving",
    "ray": "ray",
    "fsspec": "ray",
    "stable_baselines3": "training",
    "sb3_contrib": "training",
    "yaml": "training",
}


def names(group: str) -> list[str]:
    """Names that are registered in an entry point group, sorted."""
    return sorted({entry.name for entry in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """Import what ``name`` stands for in an entry point group.

    Raises ``MfenvError`` naming the known names, ``MissingExtraError`` with the pip command where
    an optional dependency is absent, and ``ShadowedPackageError`` where another package called
    ``agents``, ``training`` or ``benchmarks`` is found in place of ours.
    """
    found: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        kind = group.rpartition(".")[2].removesuffix("s")
        known = ", ".join(sorted(found)) or "none (is mfenv installed? pip install mfenv)"
        raise MfenvError(f"unknown {kind} {name!r}; known: {known}")
    return load_entry(found[name])


def load_entry(entry: EntryPoint) -> Any:
    """Import what an entry point stands for; the same errors as :func:`load`."""
    if entry.dist is not None and entry.dist.name == "mfenv":
        _check_ours(entry.module.partition(".")[0])
    try:
        return entry.load()
    except MfenvError:
        raise
    except ModuleNotFoundError as error:
        missing = missing_extra(error, f"{entry.name!r}")
        if missing is None:
            raise
        raise missing from error


def build(group: str, spec: str) -> Any:
    """Make what a specification ``NAME`` or ``NAME:ARGUMENT`` stands for in an entry point group.

    Raises ``MfenvError`` as :func:`load` does, and where the name takes no argument or needs one.
    """
    name, colon, argument = spec.partition(":")
    factory = load(group, name)
    try:
        return factory(argument) if colon else factory()
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # not the call itself
        kind = group.rpartition(".")[2].removesuffix("s")
        problem = "takes no argument" if colon else "needs an argument (NAME:ARGUMENT)"
        raise MfenvError(f"{kind} {spec!r}: {name} {problem}") from None


def missing_extra(error: ModuleNotFoundError, purpose: str) -> MissingExtraError | None:
    """The error with the pip command, if what could not be imported comes with an extra."""
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    return None if extra is None else MissingExtraError(extra, purpose)


def _check_ours(package: str) -> None:
    """Make sure that a package of ours is not shadowed by another one of the same name."""
    if package not in _OURS:
        return
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MfenvError(
            f"the package {package!r} of mfenv is missing: pip install mfenv"
        ) from error
    if getattr(module, "__mfenv__", False):
        return
    where = module.__file__ or next(iter(getattr(module, "__path__", [])), "an unknown place")
    raise ShadowedPackageError(
        f"the package {package!r} found at {Path(where)} is not mfenv's. Rename or move it if it "
        f"is a folder of yours (or start from another folder); if another distribution installed "
        f"it (openai-agents does), use a separate virtual environment for mfenv"
    )
