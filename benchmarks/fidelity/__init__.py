"""How close simulated populations come to real ones: protocol, runs, entries, scores, tables."""

from benchmarks.fidelity.cases import Case, sample, segments
from benchmarks.fidelity.machine import machine

__all__ = ["Case", "machine", "sample", "segments"]
