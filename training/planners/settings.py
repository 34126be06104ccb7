"""Settings of ``mfenv train planner``, with hyper-parameters in files as rl-zoo3 has them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mfenv.envs.registration import SOCIAL, SOCIETY
from mfenv.envs.social import SocialEnv
from mfenv.errors import MfenvError

__all__ = [
    "ALGORITHMS",
    "Hyperparameters",
    "PlannerSettings",
    "environment_arguments",
    "environment_id",
    "read_hyperparameters",
    "shipped_config",
    "validation_arguments",
]

ALGORITHMS: tuple[str, ...] = ("ppo", "maskable-ppo", "recurrent-ppo")
"""Values of ``--algo``."""

_FIXED = ("observation", "action", "render_mode")  # what the planners take is one vector
_SCHEDULED = ("learning_rate", "clip_range")
_NUMBERS = (
    *("learning_rate", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range"),
    *("ent_coef", "vf_coef", "max_grad_norm", "target_kl"),
)
_NETWORK = ("net_arch", "ortho_init", "lstm_hidden_size", "enable_critic_lstm", "shared_lstm")
_RUN = ("n_envs", "n_timesteps", "policy")  # rl-zoo3's, for a whole run
_SURROGATE = "MFLLM-Surrogate-v0"
_LINEAR = "lin_"  # rl-zoo3's spelling of a value that falls linearly to 0


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What a file says: arguments of SB3's class, and the size of a run."""

    sb3: Mapping[str, Any]
    """Arguments of the algorithm's class; a schedule stands as rl-zoo3 writes it."""
    timesteps: int
    num_envs: int


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """How a planner is trained."""

    algo: str
    """One of ``ALGORITHMS``."""
    hyperparameters: Mapping[str, Any]
    """Arguments of SB3's class."""
    timesteps: int
    """Steps of all lanes together; the last rollout is finished."""
    num_envs: int
    """Lanes that step together."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the environment to train in."""
    validation: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the environment to choose the best planner in."""
    evaluate_every: int = 200_000
    """Steps between evaluations, each of them with a checkpoint."""
    episodes: int = 448
    """Episodes of one evaluation."""
    running_means: bool = True
    """Whether the planner also sees the means of an episode's shares so far."""
    seed: int = 0
    """Of the first weights, the episodes and the order of minibatches."""


def environment_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the environment, checked by name; ``dynamics`` is ``"society"`` by default.

    A surrogate that is an ensemble is drawn anew for each episode (``member="random"``), so that
    no planner learns the errors of one fit.
    """
    allowed = [n for n in inspect.signature(SocialEnv.__init__).parameters if n != "self"]
    allowed = [n for n in allowed if n not in _FIXED]
    for name in given:
        if name not in allowed:
            raise MfenvError(
                f"the environment has no argument {name!r} that a planner can be trained with; "
                f"allowed: {', '.join(allowed)}"
            )
    arguments: dict[str, Any] = {"dynamics": "society", **given}
    if arguments["dynamics"] == "surrogate":
        arguments.setdefault("member", "random")
    return arguments


def validation_arguments(
    training: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Arguments of the validation environment: those of the training, on other events.

    Synthetic events and a folder with splits have a split ``"validation"``; for a single file of
    events, ``given`` has to name another one, else the planner is chosen on what it learned from.
    """
    arguments = dict(training)
    events = arguments.get("events")
    if events in (None, "synthetic") or Path(events).is_dir():
        arguments["split"] = "validation"
        arguments.pop("event_ids", None)
    return environment_arguments({**arguments, **(given or {})})


def environment_id(dynamics: str) -> str:
    """The registered environment of a tier, which is the name of its hyper-parameters."""
    return {"society": SOCIETY, "surrogate": _SURROGATE}.get(dynamics, SOCIAL)


def shipped_config(algo: str) -> Path:
    """The hyper-parameters that come with the package."""
    return Path(str(files("training.configs").joinpath(f"planner-{algo}.yaml")))


def read_hyperparameters(algo: str, dynamics: str, path: Path | None = None) -> Hyperparameters:
    """Read the hyper-parameters of a tier, or the file's ``default``, from a YAML file.

    The file is one of rl-zoo3's: the environment's id, then SB3's arguments, ``n_envs`` and
    ``n_timesteps``. Raises ``MfenvError`` naming the file and the field.
    """
    path = shipped_config(algo) if path is None else path
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise MfenvError(f"{path}: not a text file; a YAML file is needed") from None
    except yaml.YAMLError as error:
        raise MfenvError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    id_ = environment_id(dynamics)
    given = found.get(id_, found.get("default")) if isinstance(found, dict) else None
    if not isinstance(given, dict):
        raise MfenvError(f"{path}: no hyper-parameters under {id_!r} or 'default'")
    return _checked(path, given, recurrent=algo == "recurrent-ppo")


def _checked(path: Path, given: Mapping[str, Any], *, recurrent: bool) -> Hyperparameters:
    allowed = (*_RUN, *_NUMBERS, "policy_kwargs")
    for name in given:
        if name not in allowed:
            raise MfenvError(f"{path}: {name!r} is no setting; allowed: {', '.join(allowed)}")
    policy = "MlpLstmPolicy" if recurrent else "MlpPolicy"
    if given.get("policy", policy) != policy:
        raise MfenvError(f"{path}: policy: {given['policy']!r} is not allowed; allowed: {policy!r}")
    network = given.get("policy_kwargs", {})
    if not isinstance(network, dict) or not set(network) <= set(_NETWORK):
        raise MfenvError(f"{path}: policy_kwargs: allowed: a mapping with {', '.join(_NETWORK)}")
    sb3 = {n: _number(path, n, given[n]) for n in _NUMBERS if given.get(n) is not None}
    counts = {"n_timesteps": 1_000_000, "n_envs": 64}
    sizes = {n: int(_number(path, n, given.get(n, d))) for n, d in counts.items()}
    for name, size in {**sizes, **{n: sb3[n] for n in _WHOLE if n in sb3}}.items():
        if size < 1 or size != int(size):
            raise MfenvError(f"{path}: {name}: {size} is not allowed; allowed: 1 or more, whole")
    sb3 |= {n: int(sb3[n]) for n in _WHOLE if n in sb3}
    sb3["policy_kwargs"] = dict(network)
    return Hyperparameters(sb3, sizes["n_timesteps"], sizes["n_envs"])


_WHOLE = ("n_steps", "batch_size", "n_epochs")


def _number(path: Path, name: str, value: Any) -> Any:
    """A number, or a schedule's text where there may be one (YAML reads ``1e6`` as a text)."""
    text = str(value)
    try:
        number = float(text.removeprefix(_LINEAR) if name in _SCHEDULED else text)
    except ValueError:
        number = float("nan")
    if isinstance(value, bool) or not 0 <= number < float("inf"):
        also = f", or {_LINEAR}NUMBER" if name in _SCHEDULED else ""
        raise MfenvError(f"{path}: {name}: {value!r} is not allowed; allowed: a number{also}")
    return text if text.startswith(_LINEAR) else number
