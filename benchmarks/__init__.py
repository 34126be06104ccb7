"""How well they do: metrics, fidelity, simulations and their reports."""

__mfenv__ = True
