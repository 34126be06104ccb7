"""Environments: a planner's view (Gymnasium) and the individuals' view (PettingZoo).

``MFLLM-Social-v0`` and ``MFLLM-Society-v0`` are :class:`mfenv.envs.social.SocialEnv`;
``MFLLM-Social-Text-v0`` is :class:`mfenv.envs.social_text.SocialTextEnv`;
``MFLLM-Population-v0`` is :class:`mfenv.envs.population.PopulationEnv`.
"""
