"""Checkpoints of a planner's training, as safetensors and JSON.

A rollout is a pure function of the weights, the seed and its number (see
:mod:`training.planners.train`), so a checkpoint between two rollouts needs no state of
environments or generators: weights, the optimiser's moments, counters, and the best planner so
far.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from mfenv.errors import MfenvError
from training.folders import in_one_move

__all__ = ["Progress", "load_checkpoint", "save_checkpoint"]

_MODEL, _BEST, _PROGRESS = "model.safetensors", "best.safetensors", "progress.json"


@dataclass(slots=True)
class Progress:
    """How far a training is."""

    updates: int = 0
    """Rollouts that were learned from."""
    timesteps: int = 0
    optimiser_epochs: int = 0
    """SB3's own counter of updates, which it logs."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """The actor's weights with the best evaluation."""


def save_checkpoint(folder: Path, model: Any, progress: Progress) -> None:
    """Write ``folder/NUMBER`` in one move, then remove older checkpoints."""
    with in_one_move(folder / f"{progress.updates:08d}") as part:
        tensors = {f"policy.{k}": v.clone() for k, v in model.policy.state_dict().items()}
        for i, moments in model.policy.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v.clone() for k, v in moments.items()}
        save_file(tensors, part / _MODEL)
        save_arrays(progress.best, part / _BEST)
        words = {k: v for k, v in asdict(progress).items() if k != "best"}
        (part / _PROGRESS).write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    for old in _checkpoints(folder)[:-1]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, model: Any) -> Progress | None:
    """Put the latest checkpoint into a fresh model; None where there is none.

    Raises ``MfenvError`` if it cannot be read.
    """
    found = _checkpoints(folder)
    if not found:
        return None
    path = found[-1]
    try:
        tensors = load_file(path / _MODEL)
        words = json.loads((path / _PROGRESS).read_text(encoding="utf-8"))
        progress = Progress(**words, best=load_arrays(path / _BEST))
        model.policy.load_state_dict(_part(tensors, "policy."))
        model.policy.optimizer.load_state_dict(
            {
                "state": _moments(_part(tensors, "optimizer.")),
                "param_groups": model.policy.optimizer.state_dict()["param_groups"],
            }
        )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise MfenvError(
            f"{path}: the checkpoint cannot be read ({str(error)[:200]}); delete that folder to "
            "start the training again"
        ) from None
    model.num_timesteps, model._n_updates = progress.timesteps, progress.optimiser_epochs
    return progress


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.name.isdigit())


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _moments(tensors: Mapping[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        i, _, moment = name.partition(".")
        state.setdefault(int(i), {})[moment] = value
    return state
