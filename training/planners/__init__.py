"""Planners that learn by Stable-Baselines3: PPO, MaskablePPO and RecurrentPPO."""
