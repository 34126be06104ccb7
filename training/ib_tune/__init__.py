"""IB-Tune: mean fields that keep what predicts the next actions, and nothing else."""
