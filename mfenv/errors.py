"""Errors that tell a person what to do. The CLI prints them as one line, without a traceback."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DataError", "MfenvError", "MissingExtraError", "ModelError", "ShadowedPackageError"]


class MfenvError(Exception):
    """Base class: the message is meant for the person who gave the input."""


class MissingExtraError(MfenvError, ImportError):
    """An optional dependency is not installed; the message is the command that installs it."""

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the extra {extra!r}: pip install 'mfenv[{extra}]'")
        self.extra = extra


class ShadowedPackageError(MfenvError, ImportError):
    """Another package stands where one of ours should be (for example another ``agents``)."""


class ModelError(MfenvError):
    """A model call failed or gave an answer that cannot be used. It never becomes data."""


@dataclass
class DataError(MfenvError):
    """One malformed record: where it is, which field, what is wrong and what is allowed."""

    file: str
    record: str
    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: record {self.record}: field {self.field}: {self.problem}"
