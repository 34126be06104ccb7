"""Who works a step out: NumPy, or the same compiled by numba where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mfenv.dynamics.surrogate import kernel
from mfenv.dynamics.surrogate.kernel import Worlds
from mfenv.dynamics.surrogate.model import SurrogateModel

__all__ = ["Stepper", "is_compiled", "one_world", "stepper"]


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


def one_world(
    play: Stepper, worlds: Worlds, *, batch: int, warmup: int
) -> tuple[Worlds, Callable[[int], int]]:
    """A single world, and a function that steps it under a flat action, in place."""
    single = getattr(play, "one_world", None)
    if single is not None:
        found: tuple[Worlds, Callable[[int], int]] = single(worlds, batch=batch, warmup=warmup)
        return found
    actions, active = np.zeros(1, dtype=np.int64), np.ones(1, dtype=bool)

    def step(action: int) -> int:
        actions[0] = action
        return int(play(worlds, actions, active, batch=batch, warmup=warmup)[0])

    return worlds, step


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
