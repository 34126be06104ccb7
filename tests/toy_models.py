"""A tiny language-model population for tests of the plumbing: small, exact, without torch.

Not a mock: its agents read the shares in the mean field and the notices, draw labels by keyed
noise and write them with the synthetic grammar. Registered as the backbone ``toy`` and the methods
``toy`` and ``toy-deaf`` by :func:`install`, as anybody's package would be.
"""

import importlib
import os
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agents.light_mean_field import CountedMeanField, NoMeanField
from agents.methods import Method
from mfenv.distributions import UNIFORM
from mfenv.dynamics.mean_field_text import parse_shares
from mfenv.dynamics.models import ActionResult
from mfenv.events.synthetic.annotator import ExactAnnotator
from mfenv.events.synthetic.grammar import N_TEXT_DRAWS, combinations, write_many
from mfenv.events.synthetic.topics import SUBJECTS
from mfenv.labels import SLICES, one_hot
from mfenv.noise import categorical, uniform


class Toy:
    name = "toy"

    def __init__(self, argument=""):
        self.seconds = float(argument or 0)  # what a call takes, so that a run can be killed

    def describe(self):
        return {"name": "toy", "revision": "1"}


def _subject(topic):
    return next((s for s in SUBJECTS if s in topic.lower()), SUBJECTS[0])


class ToyPolicy:
    def __init__(self, backbone):
        self.backbone = backbone

    def chances(self, requests):
        """Probability of each label combination, (n, combinations)."""
        combos = one_hot(combinations())
        rows = []
        for r in requests:
            shares = parse_shares(r.mean_field)
            logits = np.log((UNIFORM if shares is None else shares) + 0.02)
            logits[SLICES["belief"].start + 1] += 1.5 * len(r.notices)  # doubt
            weight = np.exp(combos @ logits - (combos @ logits).max())
            rows.append(weight / weight.sum())
        return np.array(rows)

    def act(self, requests):
        time.sleep(self.backbone.seconds)
        keys = np.array([r.key for r in requests])
        drawn = categorical(self.chances(requests), uniform(*keys.T, 0))
        u = uniform(*keys.T[:, :, None], 1 + np.arange(N_TEXT_DRAWS))
        texts = write_many(combinations()[drawn], [_subject(r.topic) for r in requests], u)
        return [ActionResult(t, "", 10, 5) for t in texts]

    def score(self, requests, texts):
        """Log-probability of what the texts say; two tokens each."""
        time.sleep(self.backbone.seconds)
        labels = ExactAnnotator().label([""] * len(texts), texts, ["en"] * len(texts))
        index = (labels[:, None] == combinations()[None]).all(-1).argmax(axis=1)
        chances = self.chances(requests)[np.arange(len(texts)), index]
        return [Score(float(np.log(p)), 2) for p in chances]


class Request(NamedTuple):
    """The part of a request that :class:`ToyPolicy` scores by, before anything happened."""

    mean_field: str = ""
    notices: tuple = ()


class Score(NamedTuple):
    log_probability: float
    tokens: int


def toy(backbone, sampling=None):
    return Method("toy", ToyPolicy(backbone), CountedMeanField())


def deaf(backbone, sampling=None):
    return Method("toy-deaf", ToyPolicy(backbone), NoMeanField())


def exact():
    return ExactAnnotator()


def install(folder: Path) -> dict[str, str]:
    """Register the toy models for processes with the returned environment variables.

    :func:`check` says whether this process sees them, once ``folder`` is in ``sys.path``.
    """
    info = folder / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mfenv.backbones]\ntoy = toy_models:Toy\n\n"
        "[mfenv.methods]\ntoy = toy_models:toy\ntoy-deaf = toy_models:deaf\n\n"
        "[mfenv.annotators]\ntoy-exact = toy_models:exact\n"
    )
    return {"PYTHONPATH": f"{folder}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}


def check(folder: Path) -> None:
    """That this process sees the toy models; else what there is to see."""
    importlib.invalidate_caches()
    found = entry_points(group="mfenv.backbones").names
    seen = [p for p in sys.path if os.path.exists(os.path.join(p, "toy-1.0.dist-info"))]
    assert "toy" in found, (found, seen, os.listdir(folder), sys.path, sys.meta_path)
