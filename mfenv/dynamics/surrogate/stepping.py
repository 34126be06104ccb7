"""Who works a step out: NumPy, or the same compiled by numba where it is installed."""

from __future__ import annotations

from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mfenv.dynamics.surrogate import kernel
from mfenv.dynamics.surrogate.kernel import Step, Worlds
from mfenv.dynamics.surrogate.model import SurrogateModel

__all__ = ["Stepper", "stepper"]


class Stepper(Protocol):
    """One step of worlds, as :func:`mfenv.dynamics.surrogate.kernel.step` without the model."""

    def __call__(
        self, worlds: Worlds, actions: NDArray[np.int64], *, batch: int, warmup: int
    ) -> Step:
        """Let ``batch`` people act in each world."""
        ...


@lru_cache(maxsize=16)
def stepper(model: SurrogateModel, compiled: bool | None = None) -> Stepper:
    """The fastest way to step a model's worlds that is installed.

    Both ways draw the same counts, except where a uniform is within rounding of a boundary.
    ``compiled`` asks for one of them; ``ModuleNotFoundError`` where numba is absent.
    """
    if compiled is None:
        compiled = find_spec("numba") is not None
    if not compiled:
        return partial(kernel.step, model)
    from mfenv.dynamics.surrogate.compiled import CompiledStep

    return CompiledStep(model)
