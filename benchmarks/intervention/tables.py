"""Outcomes as a document. The simulator's fidelity stands above every table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.fidelity.tables import show

__all__ = ["HARM", "markdown"]

HARM = {
    "misbelief": "the share that believes a false topic or doubts a true one",
    "polarization": "4 · P(support) · P(oppose)",
    "target": "KL(target ‖ population) in nats",
}
"""What each objective counts as harm."""
_FINAL = ("belief/believe", "rumor/spread", "stance/support", "stance/oppose", "behavior/share")


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a document."""
    setting, rows = result["setting"], result["planners"]
    ranked, fidelity = result["ranked"], result["fidelity"]
    beside = f"*Simulator: {fidelity['simulator']}. Fidelity: {fidelity['statement']}.*"
    lines = [
        f"# Interventions: {setting['objective']}, tier {setting['dynamics']}",
        "",
        "What interventions achieve in a simulated population. It is not the public: nothing here "
        "says what an intervention would do to real people.",
        "",
        beside,
        "",
        *(f"- {line}" for line in _verdict(result)),
        "",
        "## Uplift over no intervention",
        "",
        f"Harm: {HARM[setting['objective']]}, mean over the {setting['horizon']} steps. Uplift: "
        "harm without intervention minus harm with the planner, same event, same start, same noise "
        f"of every agent. Net: the same for the reward, which takes off {setting['cost_weight']} a "
        "step for each unit of cost. "
        f"Budget {setting['budget']:g}, {result['events']} events, {result['seeds']} seeds; 95% "
        "bootstrap intervals over events and seeds within them. IQM: mean without the lowest and "
        "highest quarter. "
        "Refused: times an episode that a planner asked for more than was left.",
        "",
        "| planner | net uplift | IQM | uplift | harm | cost | harm avoided per cost | refused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label in ranked:
        r = rows[label]
        per_cost = "–" if r["avoided_per_cost"] is None else show(r["avoided_per_cost"], sign=True)
        lines.append(
            f"| {_cell(label)} | {show(r['net'], sign=True)} | {show(r['net_iqm'], sign=True)} | "
            f"{show(r['uplift'], sign=True)} | {r['harm']:.4f} | {r['spent']:.2f} | {per_cost} | "
            f"{r['refused']:.2f} |"
        )
    lines += ["", *_by_truth(result), *_oracle(result), *_best(result)]
    lines += [
        "## Timing and the end",
        "",
        beside,
        "",
        "Peak: the highest harm of three successive steps. Half: steps until an event's harm (mean "
        "over its seeds and three steps) is half of that without intervention, median over events, "
        "and the part of the events that get there. The last columns: shares in the last quarter "
        "of the episode.",
        "",
        "| planner | peak | steps to half | reach half | " + " | ".join(_FINAL) + " |",
        "|" + "---|" * (4 + len(_FINAL)),
    ]
    for label in ranked:
        r = rows[label]
        half = "–" if r["half"]["median"] is None else f"{r['half']['median']:g}"
        final = " | ".join(f"{r['final'][name]:.3f}" for name in _FINAL)
        lines.append(
            f"| {_cell(label)} | {r['peak']:.4f} | {half} | {r['half']['reached']:.0%} | {final} |"
        )
    lines += ["", *_transfer(result), "## What was run", ""]
    lines += ["| label | planner |", "|---|---|"]
    lines += [f"| {_cell(k)} | `{_cell(rows[k]['name'])}` |" for k in rows]
    lines += ["", f"Machine: {result['machine']}.", "", f"Command: `{result['command']}`", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text in a cell of a table."""
    return text.replace("|", "\\|")


def _verdict(result: Mapping[str, Any]) -> list[str]:
    rows, best = result["planners"], result["best"]
    net = rows[best]["net"]
    word = "clear" if (net["low"] or 0) > 0 else "not clear: the interval includes 0"
    lines = [f"**Best net uplift: {best}**, {show(net, sign=True)} ({word})."]
    oracle = result["oracle"]
    if oracle is not None:
        share = oracle[best]["share"]
        part = "" if share is None else f", {show(share, 3)} of it in {best}"
        lines.append(
            f"The oracle, which sees the true dynamics: {show(rows['oracle']['net'], sign=True)}"
            f"{part}."
        )
    for label, row in (result.get("transfer") or {"planners": {}})["planners"].items():
        share = row["net"]["share"]
        if share is not None:
            tiers = result["transfer"]["tiers"]
            lines.append(
                f"{label}: {show(share, 3)} of its net uplift in the tier {tiers[1]} is left in "
                f"the tier {tiers[0]}."
            )
    return lines


def _by_truth(result: Mapping[str, Any]) -> list[str]:
    rows = result["planners"]
    names = list(rows["none"]["by_truth"])
    if result["setting"]["objective"] != "misbelief" or len(names) < 2:
        return []
    lines = [
        "The same for false and for true topics. Planners do not see which is which.",
        "",
        "| planner | " + " | ".join(f"net uplift, {n} topics" for n in names) + " |",
        "|" + "---|" * (1 + len(names)),
    ]
    for label in result["ranked"]:
        cells = " | ".join(show(rows[label]["by_truth"][n], sign=True) for n in names)
        lines.append(f"| {_cell(label)} | {cells} |")
    return [*lines, ""]


def _oracle(result: Mapping[str, Any]) -> list[str]:
    if result["oracle"] is None:
        return []
    lines = [
        "## Regret to the oracle",
        "",
        "The oracle plans with the true dynamics of the society and its hidden parameters, the "
        "topic's truth among them, but without the noise to come. Regret: its net uplift minus the "
        "planner's; share: the planner's in parts of it.",
        "",
        "| planner | regret | share of the oracle's net uplift |",
        "|---|---|---|",
    ]
    for label in result["ranked"]:
        if label in result["oracle"]:
            row = result["oracle"][label]
            share = "–" if row["share"] is None else show(row["share"], 3)
            lines.append(f"| {_cell(label)} | {show(row['regret'], sign=True)} | {share} |")
    return [*lines, ""]


def _best(result: Mapping[str, Any]) -> list[str]:
    lines = [
        f"## {result['best']} against the others",
        "",
        "Paired differences of the net uplift, same events, seeds and noise.",
        "",
        f"| {_cell(result['best'])} minus | difference |",
        "|---|---|",
    ]
    lines += [
        f"| {_cell(label)} | {show(result['best_minus'][label], sign=True)} |"
        for label in result["ranked"]
        if label in result["best_minus"]
    ]
    return [*lines, ""]


def _transfer(result: Mapping[str, Any]) -> list[str]:
    if result.get("transfer") is None:
        return []
    here, there = result["transfer"]["tiers"]
    lines = [
        f"## Transfer from {there} to {here}",
        "",
        "Share of the net uplift that survives: the ratio of the means over the same events, with "
        "its paired bootstrap interval over them. None is given where the uplift in the cheaper "
        "tier is not clearly above 0.",
        "",
        f"| planner | net uplift, {there} | net uplift, {here} | share that survives |",
        "|---|---|---|---|",
    ]
    for label, row in result["transfer"]["planners"].items():
        net = row["net"]
        share = "–" if net["share"] is None else show(net["share"], 3)
        lines.append(
            f"| {_cell(label)} | {show(net['there'], sign=True)} | {show(net['here'], sign=True)} "
            f"| {share} |"
        )
    return [*lines, ""]
