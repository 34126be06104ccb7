"""Planners that were learned: the policy of PPO and its kin, computed with NumPy.

A folder holds ``planner.safetensors`` (the actor's part of an SB3 policy's state dict, under SB3's
names), ``planner.json`` (what it is and how it was trained) and a card. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from agents.planners.running_means import RunningMeans
from mfenv.envs.observation import OBSERVATION_SLICES
from mfenv.errors import MfenvError
from mfenv.interventions import N_ACTIONS
from mfenv.noise import categorical, uniform

__all__ = [
    "SHIPPED",
    "WEIGHTS_FILE",
    "LearnedPlanner",
    "from_spec",
    "planner_embedded_en",
    "planner_society",
    "planner_surrogate_society",
    "write_folder",
]

SHIPPED = Path(__file__).resolve().parent.parent / "weights"

WEIGHTS_FILE, _DESCRIPTION = "planner.safetensors", "planner.json"
_KIND = "sb3-planner"
_TIME = OBSERVATION_SLICES["time"].start
_N_OBSERVED = max(where.stop for where in OBSERVATION_SLICES.values())
_SAMPLING_STREAM = 7431  # first word of keys of noise
_MAKE_ONE = "make one: mfenv train planner --out DIR, then use DIR/planner"

Floats = NDArray[np.float32]


class LearnedPlanner:
    """Chooses what a policy network gives the highest probability among what can be paid.

    The network: standardised observations (with the running means of the shares, if it was trained
    with them), one LSTM layer if there is one, tanh layers, and a linear layer to the logits of the
    19 actions. A policy that was trained without masks chooses
    among all actions, and what cannot be paid becomes none, as in its training.
    """

    def __init__(
        self,
        weights: Mapping[str, Floats],
        *,
        masked: bool,
        deterministic: bool = True,
        name: str = "sb3",
        revision: str = "",
    ) -> None:
        """``weights`` under SB3's names. Raises ``MfenvError`` if they do not fit together.

        With ``deterministic=False`` actions are drawn, with noise keyed by the episodes' seeds.
        """
        self.name, self.revision = name, revision
        self._masked, self._deterministic = masked, deterministic
        self._mean, self._scale = (_take(weights, f"features_extractor.{n}") for n in _STANDARD)
        self._lstm: tuple[Floats, ...] = ()
        self._remembers = self._mean.size == _N_OBSERVED + RunningMeans.SIZE
        self._inputs = width = _N_OBSERVED + (RunningMeans.SIZE if self._remembers else 0)
        if any(key.startswith("lstm_actor.") for key in weights):
            self._lstm = tuple(_take(weights, f"lstm_actor.{n}_l0") for n in _LSTM)
            width = self._lstm[1].shape[1]
        self._layers = [
            tuple(_take(weights, f"mlp_extractor.policy_net.{i}.{n}") for n in _LINEAR)
            for i in range(0, sum("policy_net" in key for key in weights), 2)  # tanh between
        ]
        self._layers.append(tuple(_take(weights, f"action_net.{n}") for n in _LINEAR))
        self._check(width)
        self._seeds: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._begin()

    @classmethod
    def load(cls, folder: Path, *, deterministic: bool = True) -> LearnedPlanner:
        """The planner of a folder. Raises ``MfenvError`` that says what to do."""
        try:
            described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            kind, masked = described["kind"], bool(described["masked"])
        except (OSError, ValueError, KeyError, TypeError):
            inside = folder / "planner"
            hint = f"did you mean {inside}?" if os.path.isfile(inside / _DESCRIPTION) else _MAKE_ONE
            raise MfenvError(
                f"sb3:{folder}: no folder of a learned planner (no valid {_DESCRIPTION}); {hint}"
            ) from None
        if kind != _KIND:
            raise MfenvError(f"sb3:{folder} holds {kind!r}, not {_KIND!r}; {_MAKE_ONE}")
        path = folder / WEIGHTS_FILE
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            raise MfenvError(f"{path} cannot be read ({error}); {_MAKE_ONE}") from None
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        try:
            return cls(
                weights,
                masked=masked,
                deterministic=deterministic,
                name=f"sb3:{folder}",
                revision=f"sha256:{digest}",
            )
        except MfenvError as error:
            raise MfenvError(f"{path}: {error}; {_MAKE_ONE}") from None

    def reset(self, seeds: NDArray[np.int64]) -> None:
        """Episodes begin; ``seeds`` ``(K,)`` are those of their noise."""
        self._seeds = np.asarray(seeds, dtype=np.int64)
        self._begin()

    def act(self, observation: Floats, masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Actions ``(K,)`` for observations ``(K, 63)``, none of them masked by ``(K, 19)``.

        An observation at time 0 begins an episode: what a lane remembers is forgotten.
        """
        self._step += 1
        beginning = observation[:, _TIME] <= 0
        self._step[beginning] = 0
        self._hidden[beginning], self._cell[beginning] = 0.0, 0.0
        logits = self.logits(observation)
        allowed = masks if self._masked else np.ones_like(masks)
        logits = np.where(allowed, logits, -np.inf)
        if self._deterministic:
            chosen = logits.argmax(axis=1)
        else:
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            chosen = categorical(odds, uniform(_SAMPLING_STREAM, self._seeds, self._step))
        affordable = np.take_along_axis(masks, chosen[:, None], axis=1)[:, 0]
        return np.asarray(np.where(affordable, chosen, 0), dtype=np.int64)

    def logits(self, observation: Floats) -> Floats:
        """Logits ``(K, 19)`` of observations ``(K, 63)``; what remembers takes them in."""
        if self._means is not None:
            observation = self._means.extend(observation)
        x = ((observation - self._mean) * self._scale).astype(np.float32)
        if self._lstm:
            x = self._remember(x)
        for weight, bias in self._layers[:-1]:
            x = np.tanh(x @ weight.T + bias)
        weight, bias = self._layers[-1]
        return np.asarray(x @ weight.T + bias, dtype=np.float32)

    # -- inside ----------------------------------------------------------------------------

    def _begin(self) -> None:
        self._step = np.full(len(self._seeds), -1, dtype=np.int64)
        self._means = RunningMeans(len(self._seeds)) if self._remembers else None
        hidden = self._lstm[1].shape[1] if self._lstm else 0
        self._hidden = np.zeros((len(self._seeds), hidden), dtype=np.float32)
        self._cell = np.zeros_like(self._hidden)

    def _remember(self, x: Floats) -> Floats:
        """One step of the LSTM, gates in torch's order: input, forget, cell, output."""
        inputs, recurrent, bias, recurrent_bias = self._lstm
        gates = x @ inputs.T + bias + self._hidden @ recurrent.T + recurrent_bias
        i, f, g, o = np.split(gates, 4, axis=1)
        self._cell = _sigmoid(f) * self._cell + _sigmoid(i) * np.tanh(g)
        self._hidden = np.asarray(_sigmoid(o) * np.tanh(self._cell), dtype=np.float32)
        return self._hidden

    def _check(self, width: int) -> None:
        """Refuse weights whose shapes do not chain from 63 observed numbers to 19 logits."""
        hidden = self._lstm[1].shape[1] if self._lstm else 0
        expected: list[tuple[tuple[int, ...], tuple[int, ...]]]
        expected = [(a.shape, (self._inputs,)) for a in (self._mean, self._scale)]
        if self._lstm:
            gates = 4 * hidden
            shapes: list[tuple[int, ...]]
            shapes = [(gates, self._inputs), (gates, hidden), (gates,), (gates,)]
            expected += zip((a.shape for a in self._lstm), shapes, strict=True)
        for weight, bias in self._layers:
            expected += [(weight.shape, (bias.size, width)), (bias.shape, (bias.size,))]
            width = bias.size
        expected.append(((width,), (N_ACTIONS,)))
        for found, wanted in expected:
            if found != wanted:
                raise MfenvError(f"a tensor of shape {found} stands where {wanted} is needed")


_STANDARD, _LINEAR = ("mean", "scale"), ("weight", "bias")
_LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def write_folder(
    folder: Path, weights: Mapping[str, Floats], *, masked: bool, training: Mapping[str, Any]
) -> None:
    """Write a planner that :meth:`LearnedPlanner.load` reads; the same bytes each time."""
    save_file({name: np.ascontiguousarray(a) for name, a in weights.items()}, folder / WEIGHTS_FILE)
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()[:16]
    described = {
        "kind": _KIND,
        "masked": masked,
        "revision": f"sha256:{digest}",
        "training": dict(training),
    }
    text = json.dumps(described, indent=1, sort_keys=True)
    (folder / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def from_spec(folder: str = "") -> LearnedPlanner:
    """The planner of ``sb3:DIR``."""
    if not folder:
        raise MfenvError(f"planner 'sb3' needs a folder: sb3:DIR; {_MAKE_ONE}")
    return LearnedPlanner.load(Path(folder))


def planner_society() -> LearnedPlanner:
    """The shipped planner that was trained in the society tier."""
    return _shipped("planner-society")


def planner_surrogate_society() -> LearnedPlanner:
    """The shipped planner that was trained on the society's surrogate."""
    return _shipped("planner-surrogate-society")


def planner_embedded_en() -> LearnedPlanner:
    """The shipped planner that was trained on the surrogate of ``embedded-en``."""
    return _shipped("planner-embedded-en")


def _shipped(name: str) -> LearnedPlanner:
    planner = LearnedPlanner.load(SHIPPED / name)
    planner.name = name
    return planner


def _take(weights: Mapping[str, Floats], name: str) -> Floats:
    if name not in weights:
        raise MfenvError(f"the tensor {name} is missing")
    return np.asarray(weights[name], dtype=np.float32)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), dtype=np.float32)
