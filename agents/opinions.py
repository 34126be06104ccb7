"""Opinion models by name: the shipped one, or a file that ``mfenv train opinions`` wrote."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mfenv.dynamics.opinions import OpinionModel, load_opinions
from mfenv.errors import MfenvError

__all__ = ["DEFAULT", "WEIGHTS", "build_opinions", "shipped"]

DEFAULT = "default"
WEIGHTS = Path(__file__).resolve().parent / "weights" / "opinions" / "society.safetensors"
"""How opinions move in the synthetic society."""


@cache
def build_opinions(name: str) -> OpinionModel:
    """The model of a name: ``"default"``, or a path to a ``.safetensors`` file.

    Raises ``MfenvError`` where there is no such file, ``DataError`` where it holds something else.
    """
    path = WEIGHTS if name == DEFAULT else Path(name)
    if not path.is_file():
        raise MfenvError(
            f"no opinion model {name!r}; allowed: {DEFAULT}, or a .safetensors file that "
            f"mfenv train opinions wrote"
        )
    return load_opinions(path)


def shipped() -> OpinionModel:
    """The model that comes with the package, which the suffix ``+opinions`` of a method names."""
    return build_opinions(DEFAULT)
