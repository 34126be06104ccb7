"""The card beside a learned planner: what it is, how it was made, its figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.planners.settings import PlannerSettings

__all__ = ["write_card"]


def write_card(
    folder: Path, settings: PlannerSettings, best: Mapping[str, Any], last: Mapping[str, Any]
) -> None:
    """Write ``README.md`` with the evaluation of the planner that was kept and of the last one."""
    rows = {
        "algorithm": settings.algo,
        "steps": f"{settings.timesteps:,}",
        "lanes": settings.num_envs,
        "seed": settings.seed,
        "trained in": _told(settings.environment),
        "chosen in": _told(settings.validation),
        "running means": settings.running_means,
        **{name: _told(value) for name, value in sorted(settings.hyperparameters.items())},
    }
    means = ", the means of the shares that its episode has shown so far,"
    means = means if settings.running_means else ""
    lines = [
        "# A learned planner",
        "",
        "A policy that chooses interventions, made by `mfenv train planner`. "
        "`planner.safetensors` holds the actor under Stable-Baselines3's names, `planner.json` its "
        f"settings. It observes the environments' flat vector of 63 numbers{means} and knows "
        "neither the truth nor what is to come. In training the warm-ups' shares were drawn anew "
        "in each episode, so that it knows no event by them.",
        "",
        "| setting | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
        "## What was measured",
        "",
        f"Against no intervention in {best['episodes']} episodes with the same noise, summed over "
        "an episode. The interval resamples events. The planner that is kept is the best of all "
        "evaluations, and these are the episodes that chose it: its figures elsewhere will be "
        "somewhat lower.",
        "",
        "| planner | steps | harm without | less harm | 95% | budget spent | gain in return |",
        "|---|---|---|---|---|---|---|",
        _row("kept", best),
        _row("last", last),
        "",
        "## Limits",
        "",
        "Good for the objective, budget, horizon and kind of population that it was trained with. "
        "Judge it with language models before believing it there.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _row(name: str, e: Mapping[str, Any]) -> str:
    return (
        f"| {name} | {e['timesteps']:,} | {e['harm_without']:.3f} | {e['harm']:.3f} | "
        f"{e['harm_low']:.3f} to {e['harm_high']:.3f} | {e['spent']:.1f} | {e['gain']:.3f} |"
    )


def _told(value: Any) -> str:
    """A setting in one line of a table."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{k}={v}" for k, v in sorted(value.items())) or "the defaults"
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
