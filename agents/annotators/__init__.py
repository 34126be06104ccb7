"""Annotators: by rule, exact on synthetic text, and a trained classifier."""
