"""Who acts in the world: backbones, prompts, policy and mean-field models, annotators, planners."""

__mfenv__ = True
