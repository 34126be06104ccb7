"""mfenv: mean-field language-model populations as reinforcement-learning environments.

Importing the package registers its environments, see :mod:`mfenv.envs`.
"""

from mfenv.envs.registration import register_all

__version__ = "0.1.0"

register_all()
