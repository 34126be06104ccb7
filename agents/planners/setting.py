"""What planners are put into: a tier, its events, an objective, a budget."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mfenv.dynamics.assemble import AUTO
from mfenv.envs.objectives import OBJECTIVES
from mfenv.envs.social import TIERS, SocialEnv
from mfenv.errors import MfenvError
from mfenv.events.event import Event

__all__ = ["Setting", "add_setting_arguments", "drawn_events", "setting_of", "surrogate_name"]


@dataclass(frozen=True, slots=True)
class Setting:
    """Arguments of the environment, and which of its events are played."""

    dynamics: str = "society"
    events: str | None = None
    split: str | None = "test"
    event_ids: tuple[str, ...] = ()
    objective: str = "misbelief"
    target: Any = None
    horizon: int = 16
    budget: float = 12.0
    cost_weight: float = 0.02
    batch: int = 16
    warmup: int = 50
    backbone: str = "embedded-en"
    method: str = "mf"
    annotator: str = AUTO
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the environment."""

    def arguments(self) -> dict[str, Any]:
        """Arguments of :class:`~mfenv.envs.social_vector.SocialVectorEnv`."""
        values = {k: v for k, v in asdict(self).items() if k != "more"} | dict(self.more)
        values["event_ids"] = list(self.event_ids) or None
        if self.dynamics != "llm":
            for name in ("backbone", "method", "annotator"):
                del values[name]
        return values

    def check(self) -> SocialEnv:
        """The environment of these arguments, which checks them. Raises ``MfenvError``."""
        allowed = inspect.signature(SocialEnv).parameters
        for name in self.more:
            if name not in allowed:
                raise MfenvError(f"--env {name}: unknown argument; allowed: {', '.join(allowed)}")
        return SocialEnv(**self.arguments())

    def chosen(self, limit: int | None) -> tuple[Setting, list[Event]]:
        """The setting with the ids of its events spelled out, and the events.

        Events of unknown truth are left out where the objective needs it; ``limit`` keeps so
        many, drawn by their ids, of true and false topics in turn. Raises ``MfenvError`` where no
        event is left.
        """
        one = self.check()
        ids = [str(i) for i in one.scenarios.ids]
        needed = one.objective.needs_truth
        kept = [i for i in ids if not (needed and one.scenarios.event(i).truth is None)]
        if not kept:
            raise MfenvError(
                f"no event of known truth, which the objective {self.objective!r} needs; allowed: "
                "--objective polarization or target"
            )
        if limit is not None:
            kept = drawn_events(kept, [one.scenarios.event(i).truth for i in kept], limit)
        values = asdict(self) | {"event_ids": tuple(kept)}
        return Setting(**values), [one.scenarios.event(i) for i in kept]


def drawn_events(ids: Sequence[str], truths: Sequence[bool | None], limit: int) -> list[str]:
    """At most ``limit`` of the events, drawn by their ids, of true and false topics in turn."""
    truth = dict(zip(ids, truths, strict=True))
    shuffled = sorted(ids, key=lambda i: hashlib.sha256(i.encode()).digest())
    turns = {i: [truth[x] for x in shuffled[:k]].count(truth[i]) for k, i in enumerate(shuffled)}
    first = sorted(shuffled, key=lambda i: (turns[i], truth[i] is True))
    chosen = {*first[:limit]}
    return [i for i in ids if i in chosen]


def surrogate_name(setting: Setting) -> str:
    """The surrogate that a setting of that tier plays: the one that is given, or the default."""
    default = inspect.signature(SocialEnv).parameters["surrogate"].default
    return str(setting.more.get("surrogate", default))


def add_setting_arguments(parser: argparse.ArgumentParser, dynamics: str) -> None:
    """Declare what is played."""
    add = parser.add_argument
    add("--dynamics", default=dynamics, metavar="TIER", help=f"{', '.join(TIERS)} (%(default)s)")
    add("--objective", choices=OBJECTIVES, default="misbelief", help="harm (%(default)s)")
    add("--target", metavar="JSON", help="of --objective target: shares by dimension")
    add("--horizon", type=int, default=16, metavar="T", help="steps (%(default)s)")
    add("--budget", type=float, default=12.0, metavar="B", help="of an episode (%(default)s)")
    add("--cost-weight", type=float, default=0.02, metavar="W", help="(%(default)s)")
    add("--batch", type=int, default=16, metavar="n", help="people in a step (%(default)s)")
    add("--warmup", type=int, default=50, metavar="W", help="recorded reactions (%(default)s)")
    add("--backbone", default="embedded-en", metavar="NAME", help="of llm (%(default)s)")
    add("--method", default="mf", metavar="NAME", help="of llm (%(default)s)")
    add("--annotator", default=AUTO, metavar="NAME", help="of llm (%(default)s)")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a further argument of the environment, the value as JSON or text",
    )


def setting_of(args: argparse.Namespace, events: str | None, split: str | None) -> Setting:
    """The setting that a command line asks for."""
    more = {}
    for text in args.env:
        name, equals, value = text.partition("=")
        if not equals:
            raise MfenvError(f"--env {text!r} is not allowed; allowed: --env NAME=VALUE")
        more[name] = _json_or_text(value)
    target = None if args.target is None else _json_or_text(args.target)
    if isinstance(target, str):
        raise MfenvError(
            '--target needs JSON, such as {"stance": {"support": 0.1, "oppose": 0.5, '
            '"neutral": 0.4}}'
        )
    return Setting(
        dynamics=args.dynamics,
        events=events,
        split=split,
        objective=args.objective,
        target=target,
        horizon=args.horizon,
        budget=args.budget,
        cost_weight=args.cost_weight,
        batch=args.batch,
        warmup=args.warmup,
        backbone=args.backbone,
        method=args.method,
        annotator=args.annotator,
        more=more,
    )


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
