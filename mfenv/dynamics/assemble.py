"""Put a process together from names: backbone, method and annotator, found by entry points."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, get_type_hints

from mfenv import plugins
from mfenv.dynamics.calibration import Calibration
from mfenv.dynamics.models import Annotator, MeanFieldModel, PolicyModel
from mfenv.dynamics.opinions import OpinionModel
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings
from mfenv.errors import MfenvError
from mfenv.events.event import Event

__all__ = [
    "AUTO",
    "ModelPair",
    "backbone_identity",
    "build_annotator",
    "build_backbone",
    "build_method",
    "build_process",
    "calibration_of",
    "check_names",
    "make_method",
    "method_names",
    "opinions_of_method",
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


_CALIBRATED = re.compile(r"\+cal(?:\+[^+/:]*)*$")
_OPINIONS = "+opinions"


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a method's name says: ``NAME[:ARGUMENT][+opinions][+cal…]``."""

    head: str
    argument: str
    opinions: str
    calibration: str


def _parts(method: str) -> _Parts:
    match = _CALIBRATED.search(method)
    calibration = "" if match is None else match[0]
    rest = method.removesuffix(calibration)
    opinions = _OPINIONS if rest.endswith(_OPINIONS) else ""
    head, _, argument = rest.removesuffix(opinions).partition(":")
    return _Parts(head, argument, opinions, calibration)


def opinions_of_method(method: str) -> OpinionModel | None:
    """The opinion model that a method asks for by its suffix: ``mf+opinions``, ``mf+opinions+cal``.

    It is the one that comes with the package (entry point ``default`` of ``mfenv.opinions``).
    """
    if not _parts(method).opinions:
        return None
    model: OpinionModel = plugins.load("mfenv.opinions", "default")()
    return model


def calibration_of(method: str) -> Calibration | None:
    """The calibration that a method asks for by its suffix.

    ``mf+cal`` has the default settings, ``mf+cal+candidates=8+fading=0`` others. Raises
    ``MfenvError`` with what is allowed.
    """
    calibration = _parts(method).calibration
    if not calibration:
        return None
    kinds = get_type_hints(Calibration)
    settings: dict[str, Any] = {}
    for part in calibration.split("+")[2:]:
        name, _, value = part.partition("=")
        if name not in kinds or name in settings:
            raise MfenvError(
                f"method {method!r}: {part!r} is not allowed behind +cal; allowed: NAME=VALUE, "
                f"each once, with NAME one of {', '.join(kinds)}"
            )
        try:
            settings[name] = kinds[name](value)
        except ValueError:
            raise MfenvError(
                f"method {method!r}: {name}={value!r} is not allowed; allowed: a number"
                + (" without decimals" if kinds[name] is int else "")
            ) from None
    try:
        return Calibration(**settings)
    except ValueError as error:
        raise MfenvError(f"method {method!r}: {error}") from None


def check_names(*, backbone: str, method: str, annotator: str) -> None:
    """Raise ``MfenvError`` with the known names where one of the names is not registered.

    The settings of a method's calibration are checked too.
    """
    calibration_of(method)
    for group, name in (
        ("mfenv.backbones", backbone.partition(":")[0]),
        ("mfenv.methods", _parts(method).head),
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
    return plugins.build("mfenv.backbones", name)


def backbone_identity(name: str) -> str:
    """The name of a backbone without what makes no difference to its answers.

    That is its ``specification``, where it has one (a server's replicas are not in it), else the
    name itself. What is kept, journals and folders, goes by it.
    """
    return str(getattr(build_backbone(name), "specification", name))


@lru_cache(maxsize=8)
def build_method(method: str, backbone: str) -> ModelPair:
    """The policy and mean-field model of a method on a backbone, both by name.

    A calibration is no part of them, nor is an opinion model, see :func:`calibration_of` and
    :func:`opinions_of_method`. Equal names give the same models,
    so that :func:`mfenv.dynamics.process.advance` hands the requests of many processes to them in
    one call.
    """
    return make_method(method, build_backbone(backbone))


def make_method(method: str, backbone: Any, sampling: Any = None) -> ModelPair:
    """A method on a loaded backbone; one that takes an argument is written ``NAME:ARGUMENT``.

    ``sampling`` are the policy model's parameters where the backbone's own are not wanted.
    """
    parts = _parts(method)
    head, argument, colon = parts.head, parts.argument, ":" in method
    factory = plugins.load("mfenv.methods", head)
    if colon and len(inspect.signature(factory).parameters) < 3:
        raise MfenvError(f"method {head!r} takes no argument, {argument!r} was given; use {head}")
    arguments = (backbone, sampling, argument) if colon else (backbone, sampling)
    pair: ModelPair = factory(*arguments)
    return pair


def method_names(methods: Sequence[str]) -> dict[str, str]:
    """A short name for each method, for tables and files: name → method.

    An argument (after a colon) is left out; methods that are then the same are numbered.
    """
    heads = [x.head + x.opinions + x.calibration for x in map(_parts, methods)]
    names: dict[str, str] = {}
    for i, (head, method) in enumerate(zip(heads, methods, strict=True)):
        several = heads.count(head) > 1
        names[f"{head}-{heads[: i + 1].count(head)}" if several else head] = method
    return names


@lru_cache(maxsize=4)
def _annotator(name: str) -> Annotator:
    annotator: Annotator = plugins.build("mfenv.annotators", name)
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
        pair.policy,
        pair.mean_field,
        build_annotator(annotator, event),
        settings,
        opinions or opinions_of_method(method),
        calibration_of(method),
    )
