"""The surrogate's parameters: label chances as softmaxes of what people meet.

A reaction has one of 12 *cells* (stance × belief × behaviour, which are what friction and
amplification weigh) and one label in each of the other five dimensions. Somebody of archetype a
draws from six softmaxes over the 12 + 16 outputs, with logits

    bias[a] + domain[x] + truth·y + warmup·w + perceived·z + latest·d + time·τ
            + Σ_k notices[a, k, level] + hidden·h

where y is +1 for a true topic, -1 for a false one and 0 where it is not known; w and z are what was
perceived after the warm-up and is perceived now, d are the shares of the latest batch (each minus
the uniform distribution), τ = t / (t + 16) after t steps, and the notices are those of the running
interventions that agents can read. The other kinds act through what reaches z, as they do in every
tier (:mod:`mfenv.dynamics.reach`); h is their activity, and corrects what is linear in z only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfenv.dynamics.notices import VISIBLE
from mfenv.errors import DataError, MfenvError
from mfenv.events.event import DOMAINS
from mfenv.interventions import INTENSITIES, KINDS
from mfenv.labels import DIMENSIONS, N_LABELS, SLICES, Labels, dimension, one_hot

__all__ = [
    "CELLS",
    "FORMAT",
    "GROUPS",
    "HIDDEN",
    "N_CELLS",
    "N_OUTPUTS",
    "OTHERS",
    "OTHER_LABELS",
    "TO_LABELS",
    "Kernel",
    "SurrogateModel",
    "load_surrogate",
    "outputs_of",
]

Floats = NDArray[np.float64]

FORMAT = "mfenv-surrogate-2"
PARAMETERS = "model.safetensors"

HIDDEN: tuple[int, ...] = tuple(k for k in range(len(KINDS)) if k not in VISIBLE)
"""Kinds of which nobody is told."""

_CORE = ("stance", "belief", "behavior")
OTHERS: tuple[str, ...] = tuple(d.name for d in DIMENSIONS if d.name not in _CORE)
"""The dimensions that are drawn on their own."""

CELLS: Labels = np.stack(
    [x.ravel() for x in np.indices(tuple(len(DIMENSIONS[dimension(n)].labels) for n in _CORE))],
    axis=1,
).astype(np.int8)
"""Stance, belief and behaviour ``(12, 3)`` of each cell."""
CELLS.setflags(write=False)

N_CELLS = len(CELLS)
OTHER_LABELS: NDArray[np.intp] = np.concatenate(
    [np.arange(N_LABELS)[SLICES[name]] for name in OTHERS]
)
"""Position among the 23 labels ``(16,)`` of each output behind the cells."""
N_OUTPUTS = N_CELLS + len(OTHER_LABELS)

_SIZES = (N_CELLS, *(len(DIMENSIONS[dimension(name)].labels) for name in OTHERS))
_ENDS = np.cumsum(_SIZES).tolist()
GROUPS: tuple[slice, ...] = tuple(
    slice(end - size, end) for size, end in zip(_SIZES, _ENDS, strict=True)
)
"""The outputs of each softmax."""


def _to_labels() -> Floats:
    """Sums outputs ``(28,)`` to the 23 labels: ``(28, 23)``."""
    result = np.zeros((N_OUTPUTS, N_LABELS))
    for column, name in enumerate(_CORE):
        result[np.arange(N_CELLS), SLICES[name].start + CELLS[:, column]] = 1.0
    result[np.arange(N_CELLS, N_OUTPUTS), OTHER_LABELS] = 1.0
    return result


TO_LABELS: Floats = _to_labels()
"""Sums outputs to labels: ``(28, 23)`` of zeros and ones."""
TO_LABELS.setflags(write=False)


def outputs_of(labels: Labels) -> Floats:
    """Indicators ``(..., 28)`` of labels ``(..., 8)``: a one in each of the six groups."""
    labels = np.asarray(labels)
    stance, belief, behavior = (labels[..., dimension(n)].astype(np.intp) for n in _CORE)
    cell = (stance * 2 + belief) * 2 + behavior
    return np.concatenate([np.eye(N_CELLS)[cell], one_hot(labels)[..., OTHER_LABELS]], axis=-1)


@dataclass(frozen=True, eq=False)
class Kernel:
    """One fit of ``A`` archetypes."""

    bias: Floats  # (A, 28)
    domain: Floats  # (8, 28) the seven domains, then unknown
    truth: Floats  # (28,)
    warmup: Floats  # (23, 28)
    perceived: Floats  # (23, 28)
    latest: Floats  # (23, 28)
    time: Floats  # (28,)
    notices: Floats  # (A, 3, 3, 28): kinds in the order of VISIBLE, intensities
    hidden: Floats  # (3, 28): kinds in the order of HIDDEN

    def __post_init__(self) -> None:
        a = len(self.bias)
        for name, shape in _shapes(a).items():
            value = getattr(self, name)
            if np.shape(value) != shape or not np.isfinite(value).all():
                raise ValueError(f"{name} must be finite and of shape {shape}")


def _shapes(archetypes: int) -> dict[str, tuple[int, ...]]:
    return {
        "bias": (archetypes, N_OUTPUTS),
        "domain": (len(DOMAINS) + 1, N_OUTPUTS),
        "truth": (N_OUTPUTS,),
        "warmup": (N_LABELS, N_OUTPUTS),
        "perceived": (N_LABELS, N_OUTPUTS),
        "latest": (N_LABELS, N_OUTPUTS),
        "time": (N_OUTPUTS,),
        "notices": (archetypes, len(VISIBLE), len(INTENSITIES), N_OUTPUTS),
        "hidden": (len(HIDDEN), N_OUTPUTS),
    }


@dataclass(frozen=True, eq=False)
class SurrogateModel:
    """A fitted surrogate: the fit to all data, and an ensemble of fits to bootstrap samples."""

    name: str
    kernel: Kernel
    members: tuple[Kernel, ...]
    association: Floats  # (12, 16) chances of the other labels by cell, on average
    archetypes: tuple[str, ...]
    mixture: Floats  # (A,) of the population that it was fitted to
    identified: tuple[bool, ...] = (True,) * len(KINDS)
    """Kinds whose response the data show; one that is not identified has no effect."""
    annotator: str = "auto"  # who labels the warm-up of events without labels

    def __post_init__(self) -> None:
        a = len(self.archetypes)
        if np.shape(self.mixture) != (a,) or not np.isclose(np.sum(self.mixture), 1.0):
            raise ValueError(f"mixture must have {a} shares that sum to 1")
        if any(len(k.bias) != a for k in (self.kernel, *self.members)):
            raise ValueError(f"every fit must have the {a} archetypes {self.archetypes}")
        if np.shape(self.association) != (N_CELLS, N_OUTPUTS - N_CELLS):
            raise ValueError(f"association must be of shape {(N_CELLS, N_OUTPUTS - N_CELLS)}")
        if len(self.identified) != len(KINDS):
            raise ValueError(f"identified must say so of {len(KINDS)} kinds")

    @cached_property
    def not_identified(self) -> tuple[str, ...]:
        """Names of the kinds without support in the data."""
        return tuple(k for k, known in zip(KINDS, self.identified, strict=True) if not known)

    @cached_property
    def revision(self) -> str:
        """A hash of all parameters."""
        digest = hashlib.sha256(json.dumps(self._meta(), sort_keys=True).encode())
        for name, value in sorted(self._tensors().items()):
            digest.update(name.encode() + np.ascontiguousarray(value, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    def member(self, number: int | None) -> Kernel:
        """The fit to all data (``None``) or member ``number`` of the ensemble."""
        if number is None:
            return self.kernel
        if not 0 <= number < len(self.members):
            raise MfenvError(
                f"member={number} is not allowed; the surrogate {self.name!r} has "
                f"{len(self.members)} members: 0 to {len(self.members) - 1}"
            )
        return self.members[number]

    def _meta(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "archetypes": list(self.archetypes),
            "mixture": np.asarray(self.mixture).tolist(),
            "identified": {k: bool(x) for k, x in zip(KINDS, self.identified, strict=True)},
            "annotator": self.annotator,
            "members": len(self.members),
        }

    def _tensors(self) -> dict[str, Floats]:
        every = (self.kernel, *self.members)
        stacked = {f.name: np.stack([getattr(k, f.name) for k in every]) for f in fields(Kernel)}
        return {**stacked, "association": self.association}

    def save(self, folder: Path | str) -> None:
        """Write ``model.safetensors`` into a folder; the first of each tensor is the whole fit."""
        from safetensors.numpy import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / (PARAMETERS + ".partial")
        save_file(
            {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in self._tensors().items()},
            partial,
            metadata={"mfenv": json.dumps(self._meta(), sort_keys=True)},
        )
        partial.replace(folder / PARAMETERS)

    def rounded(self) -> SurrogateModel:
        """The model as it is read back: parameters are stored in single precision."""

        def single(kernel: Kernel) -> Kernel:
            return Kernel(**{f.name: _single(getattr(kernel, f.name)) for f in fields(Kernel)})

        return replace(
            self,
            kernel=single(self.kernel),
            members=tuple(map(single, self.members)),
            association=_single(self.association),
        )


def _single(x: Floats) -> Floats:
    return np.asarray(x, dtype=np.float32).astype(float)


def load_surrogate(folder: Path | str) -> SurrogateModel:
    """Read what :meth:`SurrogateModel.save` wrote; ``DataError`` where it is something else."""
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / PARAMETERS
    try:
        with safe_open(path, framework="numpy") as stored:
            meta = json.loads((stored.metadata() or {}).get("mfenv", "{}"))
            if meta.get("format") != FORMAT:
                raise ValueError(f"this is no {FORMAT}")
            tensors = {k: np.array(stored.get_tensor(k), float) for k in stored.keys()}  # noqa: SIM118
        return _model(meta, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            str(path),
            "(all)",
            "surrogate",
            f"not readable as a surrogate ({error}); mfenv train surrogate makes one",
        ) from None


def _model(meta: Mapping[str, Any], tensors: Mapping[str, Floats]) -> SurrogateModel:
    names: Sequence[str] = [f.name for f in fields(Kernel)]
    count = int(meta["members"]) + 1
    if any(len(tensors[name]) != count for name in names):
        raise ValueError(f"every parameter must have {count} fits")
    kernels = [Kernel(**{name: tensors[name][i] for name in names}) for i in range(count)]
    return SurrogateModel(
        name=str(meta["name"]),
        kernel=kernels[0],
        members=tuple(kernels[1:]),
        association=tensors["association"],
        archetypes=tuple(map(str, meta["archetypes"])),
        mixture=np.array(meta["mixture"], dtype=float),
        identified=tuple(bool(meta["identified"][k]) for k in KINDS),
        annotator=str(meta["annotator"]),
    )
