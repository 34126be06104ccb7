"""Planners that are language models: TRL's GRPO on the text environment."""
