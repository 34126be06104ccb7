"""``mfenv train surrogate``: collect episodes, fit a surrogate to them, report how well it fits."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import AUTO, build_backbone, check_names
from mfenv.dynamics.journal import RunLock
from mfenv.dynamics.surrogate.model import SurrogateModel
from mfenv.errors import MfenvError
from mfenv.events.synthetic.archetypes import ARCHETYPES
from mfenv.interventions import KINDS, Kind
from mfenv.labels import NAMES
from training.fit_surrogate.collect import BATCH, HORIZON, WARMUP, collect, plans, tier
from training.fit_surrogate.episodes import Episodes
from training.fit_surrogate.fit import (
    MEMBERS,
    SHRINKAGES,
    Fit,
    association,
    fit_surrogate,
    steps_of,
)
from training.fit_surrogate.real import (
    Statement,
    placebos,
    real_episodes,
    statement_effect,
    with_runs,
)
from training.fit_surrogate.report import Report, markdown, measure

__all__ = ["HELP", "add_arguments", "run"]

HELP = "fit a numeric mean field to episodes of a tier, or to real events"

SOCIETY = "society"
_LEAST = 2  # episodes or events


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add(
        "--backbone",
        metavar="NAME",
        help="fit the language-model tier with this backbone; 'society' is the synthetic society",
    )
    add("--method", default="mf", metavar="NAME", help="its mean field (%(default)s)")
    add(
        "--real",
        type=Path,
        metavar="FOLDER",
        help="fit real events instead: a folder with train and validation .parquet or .jsonl",
    )
    add("--name", metavar="NAME", help="of the surrogate (default: the backbone, or the folder)")
    add(
        "--episodes",
        type=integer(_LEAST),
        default=600,
        metavar="N",
        help="to learn from (%(default)s)",
    )
    add(
        "--held-out",
        type=integer(1),
        default=4,
        metavar="N",
        help="episodes on each validation event; with --real a quarter of --episodes",
    )
    add("--members", type=integer(0), default=MEMBERS, metavar="N", help="(%(default)s)")
    add("--annotator", default=AUTO, metavar="NAME", help="labels real reactions (%(default)s)")
    add("--seed", type=integer(0), default=0, metavar="N", help="(%(default)s)")
    add("--out", type=Path, required=True, metavar="DIR", help="the surrogate and its report")


def run(args: argparse.Namespace) -> int:
    """Collect (or read what was collected), fit, compare, write."""
    if (args.backbone is None) == (args.real is None):
        raise MfenvError("give either --backbone NAME or --real FOLDER")
    if args.backbone not in (None, SOCIETY):
        check_names(backbone=args.backbone, method=args.method, annotator=AUTO)
    with RunLock(args.out):
        _check(args)
        fitted = _real(args) if args.real else _simulated(args)
        model, report, about = fitted
        model.save(args.out)
        title = f"Surrogate {model.name}: calibration"
        text = markdown(model, report, title, about)
        (args.out / "calibration.md").write_text(text, encoding="utf-8")
        figures = {"surrogate": model.name, "revision": model.revision, **report.figures}
        (args.out / "calibration.json").write_text(
            json.dumps(_rounded(figures), indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
    print(text, end="")
    print(f"saved: {args.out}")
    return 0


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    common = {"seed": args.seed, "warmup": WARMUP, "batch": BATCH, "horizon": HORIZON}
    if args.real:
        return {**common, "real": args.real.resolve().name, "annotator": args.annotator}
    backbone: Any = SOCIETY
    if args.backbone != SOCIETY:
        backbone = build_backbone(args.backbone).describe()
    return {**common, "backbone": backbone, "method": args.method, "held_out": args.held_out}


def _check(args: argparse.Namespace) -> None:
    """What was collected in the folder must be of the same settings."""
    path = args.out / "config.json"
    text = json.dumps(_settings(args), indent=1, sort_keys=True) + "\n"
    if not path.exists():
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise MfenvError(
            f"{path} holds a run with other settings, data or backbone; use another --out or "
            f"delete the folder"
        )


def _tell(what: str) -> Any:
    def tell(done: int, total: int) -> None:
        print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    return tell


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _simulated(args: argparse.Namespace) -> tuple[SurrogateModel, Report, list[str]]:
    play = tier(args.backbone, args.method)
    found = {
        plan.name: collect(plan, play, args.out / "episodes", _tell(plan.name))
        for plan in plans(args.episodes, args.seed, held_out=args.held_out)
    }
    train = found["train"]
    fit = fit_surrogate(
        steps_of(train, len(ARCHETYPES)), members=args.members, seed=args.seed, tell=_say
    )
    model = SurrogateModel(
        name=args.name or args.backbone,
        kernel=fit.kernel,
        members=fit.members,
        association=association(train),
        archetypes=tuple(a.name for a in ARCHETYPES),
        mixture=np.bincount(train.archetypes.ravel(), minlength=len(ARCHETYPES))
        / train.archetypes.size,
    ).rounded()
    report = measure(model, found["held-out"], found["response"], batch=BATCH, warmup=WARMUP)
    source = "the synthetic society" if args.backbone == SOCIETY else f"`{args.backbone}`"
    method = "" if args.backbone == SOCIETY else f" (method `{args.method}`)"
    about = [
        f"- fitted to {len(train)} episodes of {source}{method} under random interventions: "
        f"{int((~train.planted).sum())} reactions to {len(np.unique(train.event))} synthetic events"
        " (train split's society)",
        f"- held out: the validation split; {len(found['held-out'])} episodes, and every "
        f"intervention on {len(found['response']) // 19} events",
        *_fitted(fit, args),
        f"- command: `mfenv train surrogate --backbone {args.backbone}"
        + ("" if args.backbone == SOCIETY else f" --method {args.method}")
        + f" --episodes {args.episodes} --out DIR`",
    ]
    return model, report, about


def _fitted(fit: Fit, args: argparse.Namespace) -> list[str]:
    scores = ", ".join(f"{value:g}: {nats:.4f}" for value, nats in fit.left_out.items())
    tried = f" (nats a reaction on events left out: {scores})" if scores else ""
    return [
        f"- shrinkage {fit.shrinkage:g}{tried}; {len(fit.members)} members, each fitted to a "
        f"bootstrap sample of the events"
    ]


def _file(folder: Path, split: str) -> Path:
    for suffix in (".parquet", ".jsonl"):
        if (folder / f"{split}{suffix}").is_file():
            return folder / f"{split}{suffix}"
    raise MfenvError(f"--real {folder}: has no {split}.parquet or {split}.jsonl")


def _real(args: argparse.Namespace) -> tuple[SurrogateModel, Report, list[str]]:
    folder = args.out / "episodes"
    train, marks = real_episodes(
        _file(args.real, "train"), folder, args.episodes, args.annotator, _tell("train")
    )
    held, _ = real_episodes(
        _file(args.real, "validation"),
        folder,
        max(_LEAST, args.episodes // 4),
        args.annotator,
        _tell("held-out"),
    )
    refuted = int(marks.any(axis=1).sum())
    fake = placebos(train, marks)
    ran = with_runs(train, marks, fake)
    fit = fit_surrogate(
        steps_of(ran, 1),
        shrinkages=SHRINKAGES,
        members=max(args.members, 2),
        seed=args.seed,
        tell=_say,
    )
    statement, kernel, members = statement_effect(fit.kernel, fit.members, train, refuted)
    identified = tuple(kind is Kind.STATEMENT and statement.identified for kind in Kind)
    name = args.name or args.real.resolve().name
    model = SurrogateModel(
        name=name,
        kernel=kernel,
        members=members,
        association=association(train),
        archetypes=("everyone",),
        mixture=np.ones(1),
        identified=identified,
        annotator=args.annotator,
    ).rounded()
    report = measure(model, _one_archetype(held), None, batch=BATCH, warmup=WARMUP)
    figures = {**report.figures, "statement": _statement(statement)}
    about = [
        f"- fitted to {len(train)} real events of {args.real.resolve().name} (train): "
        f"{train.labels.shape[1] * train.labels.shape[2] * len(train)} reactions after a warm-up "
        f"of {WARMUP}; held out: {len(held)} validation events",
        "- one archetype: of most authors nothing is known but what they write",
        *_fitted(fit, args),
        *_statement_lines(statement, int(fake.any(axis=1).sum())),
        f"- command: `mfenv train surrogate --real FOLDER --name {name} --episodes "
        f"{args.episodes} --out DIR`",
    ]
    return model, replace(report, figures=figures), about


def _one_archetype(episodes: Episodes) -> Episodes:
    return replace(episodes, archetypes=np.zeros_like(episodes.archetypes))


def _statement(found: Statement) -> dict[str, Any]:
    return {
        "events with a refutation": found.refuted,
        "identified": found.identified,
        "effect": dict(zip(NAMES, found.effect.tolist(), strict=True)),
        "standard deviation": dict(zip(NAMES, found.error.tolist(), strict=True)),
        "after a placebo": dict(zip(NAMES, found.placebo.tolist(), strict=True)),
    }


def _statement_lines(found: Statement, matched: int) -> list[str]:
    shown = ("belief/believe", "stance/support", "stance/oppose", "rumor/counter")
    cells = []
    for name in shown:
        i = NAMES.index(name)
        cells.append(f"{name} {found.effect[i]:+.3f} ± {found.error[i]:.3f}")
    verdict = "identified" if found.identified else "not identified"
    unknown = ", ".join(k for k in KINDS if k != KINDS[Kind.STATEMENT])
    return [
        f"- statements, from natural refutations in {found.refuted} events against {matched} "
        f"matched placebos: {'; '.join(cells)} (change of the share in the step after one, less "
        f"the placebo's; ± one standard deviation over the ensemble): {verdict}",
        f"- real data holds no planned interventions; without support, and so not identified: "
        f"{unknown}",
    ]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _rounded(v) for k, v in value.items()}
    return round(value, 6) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m training.fit_surrogate"))
