"""``mfenv bench JOB …``: hands over to the job's module, which alone is imported."""

from __future__ import annotations

from mfenv.cli import Jobs

__all__ = ["HELP", "add_arguments", "run"]

HELP = "measure: fidelity to real populations, speed, and what a model has learned"

_JOBS = Jobs(
    "bench",
    {
        "calibration": (
            "benchmarks.forecast_calibration",
            "how honest forecasts are: coverage, scores, turning points",
        ),
        "cluster": ("benchmarks.throughput.scaling", "a simulated cluster of model servers"),
        "cost": ("benchmarks.throughput.cost", "what a population will take: tokens, time, cost"),
        "environments": (
            "benchmarks.environment_speed",
            "steps a second of the environments beside CartPole's",
        ),
        "faults": (
            "benchmarks.faults.command",
            "what holds when disks fill, servers die, clocks jump: a row for each fault",
        ),
        "fidelity": (
            "benchmarks.fidelity.command",
            "how close simulated populations come to real ones",
        ),
        "fuzz": (
            "benchmarks.fuzz.command",
            "odd inputs to every reader: nothing but documented errors may come out",
        ),
        "intervention": (
            "benchmarks.intervention.command",
            "what planners achieve, against doing nothing under the same noise",
        ),
        "long": ("benchmarks.long_run", "drift and memory over tens of thousands of reactions"),
        "memorisation": ("benchmarks.memorisation", "verbatim copies of training texts"),
        "plan": ("benchmarks.fidelity.plan", "what a fidelity grid will take, before it runs"),
        "response": ("benchmarks.response", "reactions to interventions beside the society's"),
        "summaries": ("benchmarks.summaries", "how well a model rewrites the mean field"),
        "throughput": ("benchmarks.throughput.speed", "decisions a second beside a plain loop"),
    },
)
add_arguments = _JOBS.add_arguments
run = _JOBS.run
