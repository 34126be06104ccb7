"""Folders of what was learned for one backbone: adapters, or personas with their gates.

``mfenv.json`` in such a folder says what it is and which backbone it was made for, so that it is
never used on another one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.backbones.base import Backbone
from mfenv.errors import MfenvError

__all__ = [
    "ADAPTER",
    "MEAN_FIELD",
    "PERSONAS",
    "PLANNER",
    "TUNED",
    "Kind",
    "check_folder",
    "describe_folder",
    "has_policy",
    "training_of",
    "write_card",
]

_FILE = "mfenv.json"
_SAME = ("revision", "prompts")  # what must be equal for a backbone to be the same


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of folder: the method that uses it and the files that it holds."""

    name: str
    method: str
    files: tuple[str, ...]
    data: str = " --train EVENTS"

    def how(self, backbone: str = "NAME") -> str:
        """The command that makes one."""
        return f"mfenv train {self.method} --backbone {backbone}{self.data} --out DIR"


ADAPTER = Kind("adapter", "sft", ("adapter_config.json", "adapter_model.safetensors"))
MEAN_FIELD = Kind("mean-field", "ib-tune", ("adapter_config.json", "adapter_model.safetensors"))
PERSONAS = Kind("personas", "mop", ("personas.json", "gates.safetensors"))
TUNED = Kind("ib-tune", "ib-tune", ())
"""A folder around a mean-field model's and, unless its training says ``untuned``, a policy's."""
PLANNER = Kind("planner", "planner-text", ADAPTER.files, data="")
_KINDS = {k.name: k for k in (ADAPTER, MEAN_FIELD, PERSONAS, TUNED, PLANNER)}


def describe_folder(
    folder: Path, kind: Kind, backbone: Backbone, training: Mapping[str, Any]
) -> None:
    """Write what a folder holds, which backbone it is for, and how it was trained."""
    text = json.dumps(
        {"kind": kind.name, "backbone": backbone.describe(), "training": dict(training)},
        indent=1,
        sort_keys=True,
    )
    (folder / _FILE).write_text(text + "\n", encoding="utf-8")


def write_card(folder: Path, what: str, kind: Kind, figures: str) -> None:
    """Write ``README.md`` beside what was learned: what it is, how it was made, its figures.

    ``figures`` are those of held-out actions in words; "" if none were measured.
    """
    found = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    backbone, training = found["backbone"], found["training"]
    rows = [f"| {name} | {value} |" for name, value in sorted(training.items())]
    lines = [
        f"# {kind.name.capitalize()} for {backbone.get('name')}",
        "",
        f"{what}, made by `mfenv train {kind.method}`; use it with the method `{kind.method}:DIR` "
        f"on the backbone {backbone.get('name')} ({backbone.get('revision')}).",
        "",
        "| setting | |",
        "|---|---|",
        *rows,
        "",
        "## What was measured",
        "",
        *(["```", figures, "```"] if figures else ["Nothing: no validation events were given."]),
        "",
        "## Limits",
        "",
        "Good for the backbone, language and kind of event that it was trained on, as far as the "
        "figures above go. Licence: that of the backbone and of the training data.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def check_folder(folder: str, kind: Kind, backbone: Backbone) -> tuple[Path, str]:
    """The path of a folder of this kind made for this backbone, and a hash of its files.

    Raises ``MfenvError``, saying what to do, if it is absent, of another kind, or was made for
    another backbone.
    """
    if not folder:
        raise MfenvError(
            f"method {kind.method!r} needs the folder of its {kind.name}: {kind.method}:DIR; make "
            f"one: {kind.how()}"
        )
    path = Path(folder)
    try:
        found = json.loads((path / _FILE).read_text(encoding="utf-8"))
        name, made_for = str(found["kind"]), dict(found["backbone"])
    except (OSError, ValueError, KeyError, TypeError):
        inside = path / kind.name
        hint = (
            f"did you mean {inside}?"
            if os.path.exists(inside / _FILE)
            else f"make one: {kind.how()}"
        )
        raise MfenvError(
            f"{kind.method}:{folder}: no folder that mfenv train {kind.method} has finished (no "
            f"valid {_FILE}); {hint}"
        ) from None
    if name != kind.name:
        other = _KINDS.get(name)
        use = f"; use {other.method}:{folder}" if other else ""
        raise MfenvError(f"{kind.method}:{folder} holds {name!r}, not {kind.name!r}{use}")
    here = backbone.describe()
    if any(made_for.get(key) != here.get(key) for key in _SAME):
        raise MfenvError(
            f"{kind.method}:{folder} was made for backbone {_called(made_for)} and not for "
            f"{_called(here)}; use the backbone it was made for, or make one for this one: "
            f"{kind.how(backbone.name)}"
        )
    missing = [f for f in kind.files if not (path / f).is_file()]
    if missing:
        raise MfenvError(f"{kind.method}:{folder}: {missing[0]} is missing; {kind.how()}")
    return path, _hash(path, kind.files)


def training_of(folder: Path) -> dict[str, Any]:
    """How a folder that :func:`check_folder` has accepted was trained."""
    return dict(json.loads((folder / _FILE).read_text(encoding="utf-8"))["training"])


def has_policy(folder: str) -> bool:
    """Whether a result of ``mfenv train ib-tune`` is to hold a tuned policy model."""
    try:
        return bool(training_of(Path(folder))["policy"] != "untuned")
    except (OSError, ValueError, KeyError, TypeError):  # whatever is missing will be asked for
        return True


def _called(described: Mapping[str, str]) -> str:
    return f"{described.get('name')!r} ({', '.join(str(described.get(k)) for k in _SAME)})"


def _hash(folder: Path, files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return "sha256:" + digest.hexdigest()[:16]
