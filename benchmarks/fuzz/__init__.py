"""Fuzzing of everything that reads what a stranger wrote: ``mfenv bench fuzz``."""
