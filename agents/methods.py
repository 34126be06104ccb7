"""The methods that are compared: a policy model with one way to make the mean field.

Factories of the entry point group ``mfenv.methods``: each takes a backbone (and sampling
parameters for the policy model, where the backbone's own are not wanted) and gives a ``Method``.
The policy model is the same in all of them, except in those that have learned something and take
the folder that holds it (written ``sft:DIR``, ``mop:DIR``, ``ib-tune:DIR``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agents.backbones.base import Backbone
from agents.light_mean_field import (
    CountedMeanField,
    NoMeanField,
    PopularMeanField,
    RecentMeanField,
)
from mfenv.dynamics.models import MeanFieldModel, PolicyModel
from mfenv.errors import MfenvError

if TYPE_CHECKING:
    from agents.backbones.sampling_parameters import Sampling

__all__ = [
    "Method",
    "ib_tune",
    "ib_tune_mean_field",
    "ib_tune_policy",
    "mf",
    "mf_counted",
    "mop",
    "popular",
    "recent",
    "sft",
    "state",
]


@dataclass(frozen=True, slots=True)
class Method:
    """A named pair of models for :class:`mfenv.dynamics.process.MeanFieldProcess`."""

    name: str
    policy: PolicyModel
    mean_field: MeanFieldModel
    revision: str = ""
    """A hash of what the method has learned beside its backbone, if anything."""


def mf(backbone: Backbone, sampling: Sampling | None = None) -> Method:
    """The language model writes the actions and all of the mean field.

    The mean field has sampling parameters of its own, except that it is greedy with the actions.
    """
    from agents.backbones.sampling_parameters import PRESETS
    from agents.mean_field import BackboneMeanField

    policy = _policy(backbone, sampling)
    if sampling is not None and sampling.greedy:
        return Method("mf", policy, BackboneMeanField(backbone, PRESETS["greedy"].mean_field))
    return Method("mf", policy, BackboneMeanField(backbone))


def mf_counted(backbone: Backbone, sampling: Sampling | None = None) -> Method:
    """Code counts the shares of the mean field."""
    return Method("mf-counted", _policy(backbone, sampling), CountedMeanField())


def state(backbone: Backbone, sampling: Sampling | None = None) -> Method:
    """Agents see no mean field."""
    return Method("state", _policy(backbone, sampling), NoMeanField())


def recent(backbone: Backbone, sampling: Sampling | None = None) -> Method:
    """Agents see the last five reactions."""
    return Method("recent", _policy(backbone, sampling), RecentMeanField())


def popular(backbone: Backbone, sampling: Sampling | None = None) -> Method:
    """Agents see the five most popular of the last thirty reactions."""
    return Method("popular", _policy(backbone, sampling), PopularMeanField())


def sft(backbone: Backbone, sampling: Sampling | None = None, folder: str = "") -> Method:
    """The backbone fine-tuned on real actions, given topic and state, and a mean field or none.

    ``folder`` holds the adapter that ``mfenv train sft`` made for this backbone. Agents see a mean
    field, which the backbone writes as it is, if the adapter was trained with one.
    """
    from agents.backbones.adapters import adapted
    from agents.learned import training_of
    from agents.mean_field import BackboneMeanField

    tuned, revision = adapted(backbone, folder)
    reads = training_of(Path(folder)).get("method") == "mf"
    mean_field = BackboneMeanField(backbone) if reads else NoMeanField()
    return Method("sft", _policy(tuned, sampling), mean_field, revision)


def ib_tune(backbone: Backbone, sampling: Sampling | None = None, folder: str = "") -> Method:
    """Both models tuned by ``mfenv train ib-tune``, whose result ``folder`` holds.

    Where it kept no tuned policy model, the policy model is the backbone's. Without a folder it is
    what comes with the package for this backbone.
    """
    from agents.backbones.adapters import adapted
    from agents.learned import has_policy

    folder = folder or _shipped(backbone)
    field, one = _tuned_mean_field(backbone, folder)
    if not has_policy(folder):
        return Method("ib-tune", _policy(backbone, sampling), field, one)
    policy, other = adapted(backbone, _inside(folder, "policy"))
    return Method("ib-tune", _policy(policy, sampling), field, f"{one}+{other}")


def ib_tune_mean_field(
    backbone: Backbone, sampling: Sampling | None = None, folder: str = ""
) -> Method:
    """The mean-field model that ``mfenv train ib-tune`` tuned, with the untuned policy model."""
    field, revision = _tuned_mean_field(backbone, folder)
    return Method("ib-tune-mean-field", _policy(backbone, sampling), field, revision)


def ib_tune_policy(
    backbone: Backbone, sampling: Sampling | None = None, folder: str = ""
) -> Method:
    """The policy model that ``mfenv train ib-tune`` tuned; the backbone writes the mean field."""
    from agents.backbones.adapters import adapted
    from agents.learned import has_policy
    from agents.mean_field import BackboneMeanField

    if not has_policy(folder):
        raise MfenvError(
            f"ib-tune-policy:{folder}: that training kept no tuned policy model (--policy-steps 0, "
            f"or the validation NLL was better without it); use ib-tune:{folder}, which is its "
            "mean-field model with the untuned policy model"
        )
    policy, revision = adapted(backbone, _inside(folder, "policy"))
    mean_field = BackboneMeanField(backbone)
    return Method("ib-tune-policy", _policy(policy, sampling), mean_field, revision)


def mop(backbone: Backbone, sampling: Sampling | None = None, folder: str = "") -> Method:
    """Mixture of Personas (arXiv 2504.05019); agents see no mean field.

    Each writes in the manner of a persona and an exemplar, drawn by weights that ``mfenv train
    mop`` learned for this backbone; ``folder`` holds them.
    """
    from agents.learned import PERSONAS, check_folder
    from agents.personas import PersonaPolicy, load
    from agents.policy import BackbonePolicy

    path, revision = check_folder(folder, PERSONAS, backbone)
    writer = BackbonePolicy(backbone) if sampling is None else BackbonePolicy(backbone, sampling)
    return Method("mop", PersonaPolicy(writer, load(path, revision)), NoMeanField(), revision)


def _tuned_mean_field(backbone: Backbone, folder: str) -> tuple[MeanFieldModel, str]:
    from agents.backbones.adapters import adapted
    from agents.learned import MEAN_FIELD
    from agents.mean_field import BackboneMeanField

    tuned, revision = adapted(backbone, _inside(folder, MEAN_FIELD.name), MEAN_FIELD)
    return BackboneMeanField(tuned), revision


def _shipped(backbone: Backbone) -> str:
    """The folder that comes with the package for this backbone; "" if there is none."""
    path = Path(__file__).resolve().parent / "weights" / f"ib-tune-{backbone.name}"
    return str(path) if path.is_dir() else ""


def _inside(folder: str, part: str) -> str:
    """A part of what ``mfenv train ib-tune`` made; "" stays, for the error that says what to do."""
    return str(Path(folder) / part) if folder else ""


def _policy(backbone: Backbone, sampling: Sampling | None) -> PolicyModel:
    # Imported here: it needs the extra "llm", the light models above do not.
    from agents.policy import BackbonePolicy

    return BackbonePolicy(backbone) if sampling is None else BackbonePolicy(backbone, sampling)
