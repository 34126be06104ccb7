"""The surrogate tier: a numeric mean field that is fitted to journals or to real events."""

from mfenv.dynamics.surrogate.dynamics import SurrogateDynamics
from mfenv.dynamics.surrogate.find import build_surrogate
from mfenv.dynamics.surrogate.model import SurrogateModel, load_surrogate

__all__ = ["SurrogateDynamics", "SurrogateModel", "build_surrogate", "load_surrogate"]
