"""mfenv: mean-field language-model populations as reinforcement-learning environments."""

__version__ = "0.1.0"
