"""The simulated cluster against queues and pipelines that can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.throughput.cluster import Cluster, Job, Population, Server, Simulator, play
from mfenv.errors import MfenvError
from mfenv.noise import generator

PLAIN = Server(step=1.0, row=0.0, prefill=1e12, slots=1, cache=0)


def jobs_at(cluster: Cluster, arrivals, lengths) -> list[Job]:
    simulator = Simulator(cluster)
    jobs = [Job(i, (), 0, tokens) for i, tokens in enumerate(lengths)]
    for time, job in zip(arrivals, jobs, strict=True):
        simulator.at(time, lambda job=job: simulator.submit(job))
    simulator.run()
    assert simulator.finished == len(jobs)
    return jobs


def test_a_queue_with_fixed_times() -> None:
    # D/D/1: a request every 2 s that takes 3 s waits one second longer each time.
    jobs = jobs_at(Cluster(PLAIN), [2.0 * i for i in range(6)], [3] * 6)
    assert [j.finished - j.arrived for j in jobs] == pytest.approx([3 + i for i in range(6)])
    # Two replicas keep up.
    jobs = jobs_at(Cluster(PLAIN, replicas=2), [2.0 * i for i in range(6)], [3] * 6)
    assert [j.finished - j.arrived for j in jobs] == pytest.approx([3] * 6)


def test_a_queue_with_random_times_has_the_mean_of_m_m_1() -> None:
    # Arrivals 0.5 a second, service 1 s on average: 1 / (1 - 0.5) = 2 s in the system.
    n = 40_000
    random = generator(77, 0)
    arrivals = random.exponential(2.0, n).cumsum()
    server = replace(PLAIN, step=1e-3)  # a token is a millisecond
    lengths = [max(1, round(x)) for x in random.exponential(1000.0, n)]
    jobs = jobs_at(Cluster(server), arrivals, lengths)
    mean = sum(j.finished - j.arrived for j in jobs) / n
    assert mean == pytest.approx(2.0, rel=0.06)
    # Little's law: in the system on average = rate times time, 0.5 * 2.
    assert sum(j.finished - j.arrived for j in jobs) / jobs[-1].finished == pytest.approx(
        1, rel=0.08
    )
    # With slots for all and a shared speed (rows alone take time) it is processor sharing, whose
    # mean is that of the queue.
    sharing = Server(step=0.0, row=1e-3, prefill=1e12, slots=10_000, cache=0)
    jobs = jobs_at(Cluster(sharing), arrivals, lengths)
    assert sum(j.finished - j.arrived for j in jobs) / n == pytest.approx(2.0, rel=0.06)


def test_batches_share_steps() -> None:
    # Two at once: 5 tokens of both at 1 + 2 * 0.5 = 2 s a token, then 5 of one at 1.5 s.
    server = Server(step=1.0, row=0.5, prefill=1e12, slots=2, cache=0)
    jobs = jobs_at(Cluster(server), [0, 0, 0], [5, 10, 1])
    assert jobs[0].finished == pytest.approx(10)
    assert jobs[2].finished == pytest.approx(12)  # took the free slot for one token
    assert jobs[1].finished == pytest.approx(12 + 4 * 1.5)


def test_prompts_are_read_once_where_they_are_known() -> None:
    server = Server(step=0.0, row=1.0, prefill=10.0, slots=1, cache=100)
    simulator = Simulator(Cluster(server))
    chain = (("instructions", 20), ("topic", 30))
    jobs = [
        Job(0, chain, 10, 1),  # reads 60
        Job(0, chain, 10, 1),  # reads 10
        Job(0, (("instructions", 20), ("other", 60)), 10, 1),  # 70, and the topic is too much
        Job(0, chain, 10, 1),  # 40
        Job(0, (("topic", 30),), 10, 1),  # another beginning: 40
    ]
    for job in jobs:
        simulator.submit(job)
    simulator.run()
    took = [b.finished - a for a, b in zip([0, *(j.finished for j in jobs)], jobs, strict=False)]
    assert took == pytest.approx([7, 2, 8, 5, 5])
    assert simulator.read_tokens == 60 + 10 + 70 + 40 + 40
    assert simulator.prompt_tokens == 60 + 60 + 90 + 60 + 40


EVEN = Population(
    worlds=1, batch=4, steps=3, instructions=0, topic=0, mean_field=0, state=0, action=10,
    summary_reads=0, summary=20, variable=False,
)  # fmt: skip
ROOM = Server(step=1.0, row=0.0, prefill=1e12, slots=64, cache=0)


def test_a_chain_of_two_phases() -> None:
    # Three times 10 tokens of all agents together and 20 of the summary.
    played = play(Cluster(ROOM), EVEN)
    assert played.seconds == pytest.approx(3 * 30)
    assert played.summarising == pytest.approx(2 / 3)
    assert played.utilisation == pytest.approx(1)
    # One slot: four actions one after the other.
    played = play(Cluster(replace(ROOM, slots=1)), EVEN)
    assert played.seconds == pytest.approx(3 * (40 + 20))
    # More replicas than actions do not help the summary: 10 + 20 a step however many there are.
    for replicas in (4, 64):
        played = play(Cluster(replace(ROOM, slots=1), replicas=replicas), EVEN)
        assert played.seconds == pytest.approx(90)


def test_worlds_out_of_phase_fill_the_gaps_of_each_other() -> None:
    one = replace(EVEN, worlds=2, batch=2)
    cluster = Cluster(replace(ROOM, slots=1), replicas=2)
    # Lockstep: four actions on two replicas 20, two summaries 20, three times.
    lockstep = play(cluster, replace(one, lockstep=True))
    assert lockstep.seconds == pytest.approx(3 * (20 + 20))
    # On their own they are never better than the work, and never worse than in lockstep.
    free = play(cluster, one)
    work = 3 * 2 * (2 * 10 + 20) / 2
    assert work <= free.seconds <= lockstep.seconds + 1e-9
    # Uneven lengths: a barrier waits for the longest of all worlds, a world only for its own.
    uneven = replace(EVEN, worlds=16, steps=12, variable=True)
    waits = play(Cluster(ROOM), replace(uneven, lockstep=True), seed=1)
    goes = play(Cluster(ROOM), uneven, seed=1)
    assert goes.seconds < waits.seconds
    assert goes.decisions == waits.decisions


def test_failures_lose_nothing() -> None:
    cluster = Cluster(ROOM, replicas=3, mean_uptime=25, repair=10)
    population = replace(EVEN, worlds=5, steps=6)
    quiet, shaky = (
        play(replace(cluster, mean_uptime=math.inf), population),
        play(cluster, population),
    )
    assert shaky.decisions == quiet.decisions
    assert shaky.retried > 0
    assert quiet.retried == 0
    assert shaky.seconds > quiet.seconds
    assert play(cluster, population) == shaky  # the same seed, the same failures
    assert play(cluster, population, seed=1) != shaky


def test_the_cache_gains_most_where_a_world_keeps_its_replica() -> None:
    population = Population(worlds=24, batch=8, steps=4, summary=20, action=10)
    rates = {
        routing: play(Cluster(replicas=8, routing=routing), population).hit_rate
        for routing in ("world", "fewest", "random")
    }
    assert rates["world"] > max(rates["fewest"], rates["random"])
    # With one replica there is nothing to choose, and all that can be known is known.
    alone = play(Cluster(), population)
    p = population
    read = p.worlds * p.steps * p.batch * p.state + 2 * p.instructions  # own parts, both beginnings
    read += 2 * p.worlds * p.topic + p.worlds * (p.steps - 1) * p.mean_field
    read += p.worlds * (p.steps * p.summary_reads * p.batch + (p.steps - 1) * p.mean_field)
    whole = p.worlds * p.steps * p.batch * (p.instructions + p.topic + p.state)
    whole += p.worlds * (p.steps - 1) * p.batch * p.mean_field
    whole += p.worlds * p.steps * (p.instructions + p.topic + p.summary_reads * p.batch)
    whole += p.worlds * (p.steps - 1) * p.mean_field
    assert alone.hit_rate == pytest.approx(1 - read / whole)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Server(step=-1),
        lambda: Server(slots=0),
        lambda: Cluster(replicas=0),
        lambda: Cluster(concurrency=0),
    ],
)
def test_wrong_settings_are_refused(wrong) -> None:
    with pytest.raises(MfenvError):
        wrong()


def test_requests_in_flight_are_bounded() -> None:
    # All four actions one after the other, though there are slots for all.
    played = play(Cluster(ROOM, concurrency=1), EVEN)
    assert played.seconds == pytest.approx(3 * (40 + 20))
