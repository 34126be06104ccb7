"""How fast populations are played, and what a larger one will take: time, tokens, money.

Measured: :mod:`~benchmarks.throughput.speed` (the engine beside a plain loop) and
:mod:`~benchmarks.throughput.load` (a running server). Computed: what is asked of a model
(:mod:`~benchmarks.throughput.workload`), the memory that it takes
(:mod:`~benchmarks.throughput.memory`) and time and cost (:mod:`~benchmarks.throughput.cost`).
Simulated: a cluster of servers (:mod:`~benchmarks.throughput.cluster`).
"""
