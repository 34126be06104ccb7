"""Backbones: causal language models that write and score text in batches."""
