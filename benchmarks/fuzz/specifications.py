"""Fuzz targets: names of planners, methods, annotators, interventions and backbones."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from agents.planners.base import build_planner
from benchmarks.fuzz.mutate import changed_text, rounds
from benchmarks.fuzz.target import Target, pick, text_of
from benchmarks.simulate import _intervention as scheduled
from benchmarks.simulate import chosen_methods
from mfenv import plugins
from mfenv.dynamics.assemble import (
    build_annotator,
    build_backbone,
    calibration_of,
    make_method,
    method_names,
)
from mfenv.envs.observation import OBSERVATION_SLICES
from mfenv.errors import MfenvError
from mfenv.interventions import N_ACTIONS

__all__ = ["TARGETS"]

_SIZE = max(part.stop for part in OBSERVATION_SLICES.values())
_PLANNERS = (
    *("none", "random", "always:fact_check/high", "front-loaded:statement/low@3", "paper:3"),
    *("periodic:seed/medium@2", "threshold:fact_check/high@0.5", "paper", "oracle:noise"),
    *("by-credibility:always:fact_check/high|none", "by-credibility:paper:2|periodic:none@4"),
    *("schedule:fact_check/high,none,seed/low", "sb3:nowhere", "oracle", "oracle:belief"),
    "schedule:nowhere.json",
)
_METHODS = (
    *("mf", "mf-counted", "state", "recent", "popular", "mf+cal", "mf+cal+candidates=8+fading=0"),
    *("mf+cal+shrinkage=1e1+band=.5+draws=2", "state+opinions+cal", "sft:nowhere", "mop:nowhere"),
    *("ib-tune:nowhere+cal", "ib-tune-policy:nowhere", "mf,state+cal"),
)
_ANNOTATORS = ("auto", "exact", "classifier", "classifier:nowhere", "llm:ngram-en", "llm:")
_BACKBONES = (
    *("openai:a/model@http://127.0.0.1:9/v1", "openai:gpt", "openai:m@https://host/v1?key=x"),
    *("hf:nowhere", "hf:nobody/nothing@main", "ngram:nowhere", "ngram-en", "embedded-en-xs"),
    *("openai:m@http://[::1]:9/v1", "openai:m@http://user:pass@host/v1", "embedded-en:x"),
)
_DOCUMENTED = (MfenvError, argparse.ArgumentTypeError)
_SCHEDULED = ("fact_check/high@1", "statement/low@12", "seed/medium@999999")


def _made(kinds: tuple[tuple[str, tuple[str, ...]], ...]) -> Callable[[Random], bytes]:
    def make(random: Random) -> bytes:
        kind, texts = pick(random, kinds)
        text = pick(random, texts)
        if random.random() < 0.1:
            text = f"{text}{pick(random, ('|', ':', ',', '+', '@', '/'))}{pick(random, texts)}"
        for _ in range(rounds(random)):
            text = changed_text(random, text)
        return f"{kind} {text}".encode("utf-8", "surrogatepass")

    return make


_installed = functools.cache(entry_points)  # reading it anew takes longer than all the rest
_OFFLINE = "HF_HUB_OFFLINE"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Where names may be read as paths, nothing of ours is near; nothing is fetched.

    Which plugins are installed is read once. Afterwards all is as it was.
    """
    place, offline = Path.cwd(), os.environ.get(_OFFLINE)
    plugins.entry_points = _installed  # type: ignore[attr-defined, assignment]
    os.environ[_OFFLINE] = "1"
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(place)
        plugins.entry_points = entry_points  # type: ignore[attr-defined]
        if offline is None:
            del os.environ[_OFFLINE]
        else:
            os.environ[_OFFLINE] = offline


def read(data: bytes, folder: Path) -> None:
    """Build what a specification stands for."""
    kind, _, text = text_of(data).partition(" ")
    if kind not in _READERS:
        return  # an engine may try bytes of its own first
    with _alone(folder):
        _READERS[kind](text)


def _planner(text: str) -> None:
    if text.startswith("planner-society"):
        return  # loads weights; its name takes nothing that could be changed
    planner = build_planner(text)
    if "oracle" in text:
        return  # acts only where it is shown a society
    observation = np.zeros((2, _SIZE), dtype=np.float32)
    planner.reset(np.arange(2))
    for _ in range(2):
        chosen = planner.act(observation, np.ones((2, N_ACTIONS), dtype=bool))
        assert chosen.shape == (2,)
        assert ((chosen >= 0) & (chosen < N_ACTIONS)).all()


def _method(text: str) -> None:
    given = argparse.Namespace(method=[text], backbone="ngram-en", annotator="auto")
    methods = chosen_methods(given)
    names = method_names(methods)
    assert sorted(names.values()) == sorted(methods), "two methods have one name"
    for method in methods:
        calibration_of(method)
        make_method(method, build_backbone("ngram-en"))


def _annotator(text: str) -> None:
    build_annotator(text)


def _backbone(text: str) -> None:
    build_backbone(text)


def _scheduled(text: str) -> None:
    step, intervention = scheduled(text)
    assert step >= 1
    assert intervention.kind is not None


_READERS: dict[str, Callable[[str], Any]] = {
    "planner": _planner,
    "method": _method,
    "annotator": _annotator,
    "backbone": _backbone,
    "scheduled": _scheduled,
}


TARGETS = (
    Target(
        "specifications",
        "names of planners, methods, annotators, interventions",
        _made(
            (
                ("planner", _PLANNERS),
                ("planner", _PLANNERS),
                ("method", _METHODS),
                ("method", _METHODS),
                ("annotator", _ANNOTATORS),
                ("scheduled", _SCHEDULED),
            )
        ),
        read,
        0.12,
        _DOCUMENTED,
        longest=float("inf"),
    ),
    Target(
        "backbones", "names of backbones", _made((("backbone", _BACKBONES),)), read, 0.0005,
        _DOCUMENTED, longest=float("inf"),
    ),
)  # fmt: skip
