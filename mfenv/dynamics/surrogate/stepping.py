"""Who works a step out: NumPy, or the same compiled by numba where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mfenv.dynamics.surrogate import kernel
from mfenv.dynamics.surrogate.kernel import Worlds
from mfenv.dynamics.surrogate.model import SurrogateModel

__all__ = ["OneWorld", "Stepper", "is_compiled", "one_world", "stepper"]


class Stepper(Protocol):
    """:func:`mfenv.dynamics.surrogate.kernel.play` without the model."""

    def __call__(
        self,
        worlds: Worlds,
        actions: NDArray[np.int64],
        active: NDArray[np.bool_],
        *,
        batch: int,
        warmup: int,
    ) -> NDArray[np.int64]:
        """Let ``batch`` people act in each active world, in place; how many are its own."""
        ...


_REALS = ("latest", "perceived", "activity", "offset", "mixture")
_WHOLE = ("seed", "member", "step")


@dataclass(frozen=True, slots=True)
class OneWorld:
    """A single world in two buffers."""

    worlds: Worlds  # views of them
    state: NDArray[np.float64]  # (52,) a view of its latest and perceived shares and its activity
    step: Callable[[int], int]  # under a flat action, in place; how many people are its own


def one_world(play: Stepper, worlds: Worlds, *, batch: int, warmup: int) -> OneWorld:
    """The only one of ``worlds``, for many steps under the same settings."""
    values = [getattr(worlds, name)[0] for name in _REALS]
    reals = np.concatenate(values)
    whole = np.array([getattr(worlds, name)[0] for name in _WHOLE])
    views, first = {}, 0
    for name, value in zip(_REALS, values, strict=True):
        views[name] = reals[None, first : first + len(value)]
        first += len(value)
    for k, name in enumerate(_WHOLE):
        views[name] = whole[k : k + 1]
    packed = Worlds(**views)
    state = reals[: sum(map(len, values[:3]))]
    single = getattr(play, "single", None)
    if single is not None:
        return OneWorld(packed, state, single(reals, whole, batch=batch, warmup=warmup))
    active = np.ones(1, dtype=bool)

    def step(action: int) -> int:
        return int(play(packed, np.array([action]), active, batch=batch, warmup=warmup)[0])

    return OneWorld(packed, state, step)


def is_compiled() -> bool:
    """Whether numba, the extra ``fast``, is installed."""
    return find_spec("numba") is not None


@lru_cache(maxsize=16)
def stepper(model: SurrogateModel, compiled: bool | None = None) -> Stepper:
    """The fastest way to step a model's worlds that is installed.

    Both ways draw the same counts, except where a uniform is within rounding of a boundary.
    ``compiled`` asks for one of them; ``ModuleNotFoundError`` where numba is absent.
    """
    if compiled is None:
        compiled = is_compiled()
    if not compiled:
        return partial(kernel.play, model)
    from mfenv.dynamics.surrogate.compiled import CompiledStep

    return CompiledStep(model)
