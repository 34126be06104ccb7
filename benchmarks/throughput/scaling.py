"""``mfenv bench cluster``: what limits a large population, in the simulated cluster.

Three questions, each a table and a picture: how many decisions a second one population makes as its
steps and the replicas grow, and how much of that time it waits for its mean field; what several
worlds in flight gain, in lockstep and each on its own; what routing and failures do. Nothing here
is measured: the servers are :class:`benchmarks.throughput.cluster.Server` with the given settings.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.throughput.cluster import Cluster, Played, Population, Server, play
from mfenv.cli import integer

__all__ = ["HELP", "add_arguments", "run", "scaling"]

HELP = "a simulated cluster: what limits a population, what more worlds and replicas gain"

_BATCHES = (16, 64, 256, 1024, 4096)
_REPLICAS = (1, 4, 16, 64)
_WORLDS = (1, 2, 4, 8, 16)
_WORLDS_BATCH, _WORLDS_REPLICAS = 64, 4
_LIMITS = (None, 64)  # requests in flight
_MILLION = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mfenv bench cluster``."""
    add = parser.add_argument
    default = Server()
    for name, what in (
        ("step", "seconds of a decoding step"),
        ("row", "seconds that each sequence adds to it"),
        ("prefill", "prompt tokens read a second"),
    ):
        value = getattr(default, name)
        add(f"--{name}", type=float, default=value, metavar="X", help=f"{what} (%(default)s)")
    add("--slots", type=integer(1), default=default.slots, metavar="N", help="sequences at once")
    add("--steps", type=integer(1), default=3, metavar="T", help="simulated (%(default)s)")
    add("--seed", type=integer(0), default=0, metavar="SEED", help="(%(default)s)")
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR", help="(%(default)s)")
    add("--pictures", type=Path, metavar="DIR", help="also draw (extra reports)")
    add("--json", action="store_true", help="print JSON only")


def scaling(server: Server, steps: int, seed: int) -> dict[str, Any]:
    """All simulations: lists of settings with what came of them."""

    def row(played: Played, **settings: Any) -> dict[str, Any]:
        return {**settings, **asdict(played), "rate": played.rate}

    one = Population(steps=steps)
    grown = [
        row(
            play(
                Cluster(server, replicas),
                replace(one, batch=batch, shown=shown),
                seed,
            ),
            batch=batch,
            replicas=replicas,
            shown=shown,
        )
        for batch in _BATCHES
        for replicas in _REPLICAS
        for shown in dict.fromkeys((batch, min(batch, 64)))
    ]
    several = [
        {**found, "worlds": worlds, "limit": limit}
        for limit in _LIMITS
        for worlds in _WORLDS
        for found in _ways(
            Cluster(server, _WORLDS_REPLICAS, concurrency=limit), worlds, steps, seed
        )
    ]
    many = replace(one, worlds=32, batch=16, steps=4 * steps)
    routed = [
        row(play(Cluster(server, 8, routing=routing), many, seed), routing=routing, failures=False)
        for routing in ("fewest", "world", "random")
    ]
    # About one failure a replica in the run, each as long as a tenth of it.
    took = routed[0]["seconds"]
    shaky = Cluster(server, 8, mean_uptime=took, repair=took / 10)
    routed.append(row(play(shaky, many, seed), routing="fewest", failures=True))
    return {"server": asdict(server), "grown": grown, "several": several, "routed": routed}


def _ways(cluster: Cluster, worlds: int, steps: int, seed: int) -> list[dict[str, Any]]:
    """Rates of worlds in lockstep, begun one after the other, and with summaries first."""
    of = Population(worlds=worlds, batch=_WORLDS_BATCH, steps=steps, shown=64)
    lockstep = play(cluster, replace(of, lockstep=True), seed)
    # Begun evenly over a step, and played long enough that all are on their way.
    later = replace(of, spread=lockstep.seconds / steps, steps=steps + 2)
    played = {
        "lockstep": lockstep,
        "overlap": play(cluster, later, seed),
        "summaries first": play(cluster, replace(later, summaries_first=True), seed),
    }
    return [{"way": way, "steady": p.steady, "used": p.utilisation} for way, p in played.items()]


def run(args: argparse.Namespace) -> int:
    """Simulate, write, draw, print."""
    server = Server(args.step, args.row, args.prefill, args.slots)
    result = scaling(server, args.steps, args.seed)
    result["command"] = (
        f"mfenv bench cluster --step {args.step:g} --row {args.row:g} --prefill {args.prefill:g} "
        f"--slots {args.slots} --steps {args.steps} --seed {args.seed}"
    )
    text = _markdown(result)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "cluster.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "cluster.md").write_text(text, encoding="utf-8")
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
        _draw(result, args.pictures)
    print(json.dumps(result) if args.json else text)
    return 0


def _hours(rate: float) -> str:
    seconds = _MILLION / rate
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _markdown(result: dict[str, Any]) -> str:
    s = result["server"]
    lines = [
        "# A simulated cluster",
        "",
        "Simulated, not measured: a discrete-event simulation (`benchmarks/throughput/cluster.py`) "
        f"of servers that need {1000 * s['step']:g} ms for a decoding step and "
        f"{1e6 * s['row']:g} µs more for each running sequence, read {s['prefill']:,.0f} prompt "
        f"tokens a second and run {s['slots']} sequences at once.",
        "",
        "One population: its rate, the time of a million decisions, and the share of the time in "
        "which it waits for its mean field. The mean field is written from all reactions of the "
        "step, or from 64 of them.",
        "",
        "| agents a step | replicas | read by the summary | decisions/s | a million | waiting |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['batch']:,} | {r['replicas']} | {r['shown']:,} | {r['rate']:,.0f} | "
        f"{_hours(r['rate'])} | {r['summarising']:.0%} |"
        for r in result["grown"]
    ]
    lines += [
        "",
        f"Several worlds of {_WORLDS_BATCH} agents a step on {_WORLDS_REPLICAS} replicas, in "
        "decisions a second: a phase of all before the next (lockstep, as the engine does it); "
        "each on its own, begun one after the other over a step; the same, and summaries before "
        "actions that wait.",
        "",
        "| in flight at most | worlds | lockstep | overlap | summaries first |",
        "|---|---|---|---|---|",
    ]
    for limit in _LIMITS:
        for worlds in _WORLDS:
            of = {
                r["way"]: r["steady"]
                for r in result["several"]
                if r["worlds"] == worlds and r["limit"] == limit
            }
            base = of["lockstep"]
            gains = " | ".join(
                f"{of[way]:,.0f} ({of[way] / base - 1:+.0%})"
                for way in ("overlap", "summaries first")
            )
            lines.append(f"| {limit or 'no limit'} | {worlds} | {base:,.0f} | {gains} |")
    lines += [
        "",
        "Routing and failures, 32 worlds of 16 on 8 replicas:",
        "",
        "| routing | failures | decisions/s | prompt tokens in a cache | asked again |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['routing']} | {'one a replica' if r['failures'] else 'none'} | {r['rate']:,.0f} | "
        f"{r['hit_rate']:.0%} | {r['retried']} |"
        for r in result["routed"]
    ]
    return "\n".join([*lines, "", "```", result["command"], "```", ""])


def _draw(result: dict[str, Any], folder: Path) -> None:
    """The pictures of the documentation, the same bytes each time."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    style = {"svg.hashsalt": "mfenv", "font.size": 9, "axes.spines.top": False}
    with plt.rc_context({**style, "axes.spines.right": False, "svg.fonttype": "none"}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        for replicas in _REPLICAS:
            for all_read, line in ((True, "-"), (False, ":")):
                rows = [
                    r
                    for r in result["grown"]
                    if r["replicas"] == replicas
                    and (
                        r["shown"] == r["batch"] if all_read else r["shown"] == min(r["batch"], 64)
                    )
                ]
                label = f"{replicas} replica{'s' if replicas > 1 else ''}" if all_read else None
                colour = f"C{_REPLICAS.index(replicas)}"
                batch = [r["batch"] for r in rows]
                axes[0].plot(batch, [r["rate"] for r in rows], line, color=colour, label=label)
                waits = [100 * r["summarising"] for r in rows]
                axes[1].plot(batch, waits, line, color=colour)
        axes[0].set(xscale="log", yscale="log", xlabel="agents a step", ylabel="decisions a second")
        axes[1].set(xscale="log", ylim=(0, 100), xlabel="agents a step")
        axes[1].set_ylabel("% of the time waiting for the mean field")
        axes[0].legend(frameon=False)
        _save(figure, folder / "cluster-population.svg")
        figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
        for limit, line in zip(_LIMITS, ("-", ":"), strict=True):
            for way, colour in (("summaries first", "C0"), ("lockstep", "C1")):
                rows = [r for r in result["several"] if (r["way"], r["limit"]) == (way, limit)]
                name = "overlapping" if way != "lockstep" else way
                label = f"{name}, {limit or 'any number'} in flight"
                rates = [r["steady"] for r in rows]
                axis.plot(_WORLDS, rates, line, marker="o", color=colour, label=label)
        axis.set(
            xscale="log", xlabel="worlds together", ylabel="decisions a second", ylim=(0, None)
        )
        axis.set_xticks(_WORLDS, [str(w) for w in _WORLDS])
        axis.legend(frameon=False)
        _save(figure, folder / "cluster-worlds.svg")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
