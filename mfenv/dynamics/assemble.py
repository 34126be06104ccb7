"""Put a process together from names: backbone, method and annotator, found by entry points."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from mfenv import plugins
from mfenv.dynamics.models import Annotator, MeanFieldModel, PolicyModel
from mfenv.dynamics.opinions import OpinionModel
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings
from mfenv.errors import MfenvError
from mfenv.events.event import Event

__all__ = [
    "AUTO",
    "ModelPair",
    "build_annotator",
    "build_backbone",
    "build_method",
    "build_process",
    "check_names",
    "make_method",
    "method_names",
]

AUTO = "auto"
"""The annotator that suits the event: exact for synthetic events, else the trained classifier."""


class ModelPair(Protocol):
    """What an entry point of ``mfenv.methods`` makes of a backbone."""

    @property
    def policy(self) -> PolicyModel:
        """Writes the actions."""
        ...

    @property
    def mean_field(self) -> MeanFieldModel:
        """Writes the mean field."""
        ...


def check_names(*, backbone: str, method: str, annotator: str) -> None:
    """Raise ``MfenvError`` with the known names where one of the names is not registered."""
    for group, name in (
        ("mfenv.backbones", backbone.partition(":")[0]),
        ("mfenv.methods", method.partition(":")[0]),
        ("mfenv.annotators", annotator.partition(":")[0]),
    ):
        if annotator == AUTO and group == "mfenv.annotators":
            continue
        known = plugins.names(group)
        if name not in known:
            kind = group.rpartition(".")[2].removesuffix("s")
            if kind == "annotator":
                known = sorted([*known, AUTO])
            raise MfenvError(f"unknown {kind} {name!r}; known: {', '.join(known) or 'none'}")


@lru_cache(maxsize=4)
def build_backbone(name: str) -> Any:
    """The backbone of a name; one that takes an argument is written ``NAME:ARGUMENT``.

    A backbone is loaded once in a process, since it never changes. Raises ``MfenvError`` for an
    unknown name and ``MissingExtraError`` where an extra is not installed.
    """
    head, colon, argument = name.partition(":")
    factory = plugins.load("mfenv.backbones", head)
    return factory(argument) if colon else factory()


@lru_cache(maxsize=8)
def build_method(method: str, backbone: str) -> ModelPair:
    """The policy and mean-field model of a method on a backbone, both by name.

    Equal names give the same models, so that :func:`mfenv.dynamics.process.advance` hands the
    requests of many processes to them in one call.
    """
    return make_method(method, build_backbone(backbone))


def make_method(method: str, backbone: Any, sampling: Any = None) -> ModelPair:
    """A method on a loaded backbone; one that takes an argument is written ``NAME:ARGUMENT``.

    ``sampling`` are the policy model's parameters where the backbone's own are not wanted.
    """
    head, colon, argument = method.partition(":")
    factory = plugins.load("mfenv.methods", head)
    if colon and len(inspect.signature(factory).parameters) < 3:
        raise MfenvError(f"method {head!r} takes no argument, {argument!r} was given; use {head}")
    arguments = (backbone, sampling, argument) if colon else (backbone, sampling)
    pair: ModelPair = factory(*arguments)
    return pair


def method_names(methods: Sequence[str]) -> dict[str, str]:
    """A short name for each method, for tables and files: name → method.

    What follows the colon is left out; methods that are then the same are numbered.
    """
    heads = [method.partition(":")[0] for method in methods]
    names: dict[str, str] = {}
    for i, (head, method) in enumerate(zip(heads, methods, strict=True)):
        several = heads.count(head) > 1
        names[f"{head}-{heads[: i + 1].count(head)}" if several else head] = method
    return names


@lru_cache(maxsize=4)
def _annotator(name: str) -> Annotator:
    head, colon, argument = name.partition(":")
    factory = plugins.load("mfenv.annotators", head)
    annotator: Annotator = factory(argument) if colon else factory()
    return annotator


def build_annotator(name: str, event: Event | None = None) -> Annotator:
    """The annotator of a name, with an argument after a colon if it takes one.

    ``"auto"`` is the one that suits the event: exact for a synthetic one, else the classifier.
    """
    if name == AUTO:
        synthetic = event is not None and event.source == "synthetic"
        name = "exact" if synthetic else "classifier"
    return _annotator(name)


def build_process(
    method: str,
    backbone: str,
    annotator: str,
    event: Event,
    settings: ProcessSettings | None = None,
    opinions: OpinionModel | None = None,
) -> MeanFieldProcess:
    """A process for an event, from names. It has not begun: call ``reset(event, seed)``."""
    pair = build_method(method, backbone)
    return MeanFieldProcess(
        pair.policy, pair.mean_field, build_annotator(annotator, event), settings, opinions
    )
