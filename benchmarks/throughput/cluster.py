"""A discrete-event simulation of servers that a simulation's worlds ask: queues, batches, caches.

What is modelled:

- A **replica** decodes its running sequences together: with ``b`` of them, one token of each takes
  ``step + row · b`` seconds. Reading a prompt (what of it is in no cache) takes ``1 / prefill``
  seconds a token, during which decoding stands still. At most ``slots`` sequences run; the others
  wait in order of arrival.
- A **prefix cache** of each replica keeps beginnings of prompts, the least recently used ones go
  first. A beginning is a chain of parts (instructions, topic, mean field), of which only the
  unknown rest is read.
- A **router** sends a request to a replica: the one with the fewest in flight, the world's own, or
  any. Replicas fail at random, lose what they had, and come back; their requests go elsewhere.
- A **world** is a chain: its agents act all at once, then one summary is written, then the next
  step begins. Worlds go in ``lockstep`` (a phase of all worlds ends before the next begins, as the
  engine does it) or each on its own (``overlap``).

Everything random comes from one seed; the same arguments give the same result. Time is in seconds.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mfenv.errors import MfenvError
from mfenv.noise import generator

__all__ = [
    "Cluster",
    "Job",
    "Played",
    "Population",
    "Replica",
    "Routing",
    "Server",
    "Simulator",
    "play",
]

Routing = Literal["fewest", "world", "random"]

_STREAM = 9071  # of the noise: lengths, failures, routing


@dataclass(frozen=True, slots=True)
class Server:
    """How fast one replica is."""

    step: float = 0.012
    """Seconds of one decoding step, however few sequences run."""
    row: float = 0.00006
    """Seconds that each running sequence adds to a step."""
    prefill: float = 20_000.0
    """Prompt tokens read a second."""
    slots: int = 256
    """Sequences that run at once (``--max-num-seqs``)."""
    cache: int = 400_000
    """Tokens of prompts' beginnings that are kept; 0 for no prefix cache."""

    def __post_init__(self) -> None:
        for name in ("step", "row", "cache"):
            if getattr(self, name) < 0:
                raise MfenvError(f"{name} {getattr(self, name)} is not allowed; allowed: 0 or more")
        if not self.prefill > 0 or self.slots < 1 or self.step + self.row <= 0:
            raise MfenvError(
                "a server needs prefill above 0, at least 1 slot, and a step that takes time"
            )

    def token_time(self, running: int) -> float:
        """Seconds for one more token of each of ``running`` sequences."""
        return self.step + self.row * running


@dataclass(frozen=True, slots=True)
class Cluster:
    """Replicas, and how requests find them."""

    server: Server = Server()
    replicas: int = 1
    routing: Routing = "fewest"
    concurrency: int | None = None
    """Requests in flight at once, over all replicas; ``None``: no limit."""
    mean_uptime: float = math.inf
    """Seconds between a replica's failures (exponential); infinite: none."""
    repair: float = 60.0
    """Seconds until a failed replica is back, with nothing in its cache."""

    def __post_init__(self) -> None:
        if self.replicas < 1 or not self.mean_uptime > 0 or self.repair < 0:
            raise MfenvError("a cluster needs at least 1 replica, uptime above 0, repair 0 or more")
        if self.concurrency is not None and self.concurrency < 1:
            raise MfenvError("concurrency must be at least 1")


@dataclass(slots=True)
class Job:
    """One request."""

    world: int
    prefixes: tuple[tuple[Hashable, int], ...]
    """The beginning of its prompt: (name, tokens) of each part, from the outside in."""
    own: int
    """Prompt tokens that no other request begins with."""
    tokens: int
    """Tokens to be written."""
    done: Callable[[Job], None] | None = None
    """Called at its end, with the simulator's clock at that time."""
    first: bool = False
    """Whether it goes before all that wait."""
    attempts: int = 0
    arrived: float = 0.0
    finished: float = 0.0


@dataclass(slots=True)
class Replica:
    """The state of one server."""

    server: Server
    up: bool = True
    waiting: deque[Job] = field(default_factory=deque)
    running: list[tuple[float, int, Job]] = field(default_factory=list)
    """A heap of (virtual time of the last token, number, job)."""
    virtual: float = 0.0
    """Tokens that a sequence which runs all the time would have."""
    reading: float = 0.0
    """Until when prompts are read and no token is written."""
    seen: float = 0.0
    """Up to when ``virtual`` holds."""
    version: int = 0
    """Counts changes, so that events that were foreseen before one are void."""
    known: OrderedDict[tuple[Hashable, ...], int] = field(default_factory=OrderedDict)
    kept: int = 0
    busy: float = 0.0

    @property
    def in_flight(self) -> int:
        """Requests that it has."""
        return len(self.waiting) + len(self.running)

    def advance(self, now: float) -> None:
        """Let time pass until ``now``."""
        if self.running:
            self.busy += now - self.seen
            begun = max(self.seen, self.reading)
            if now > begun:
                self.virtual += (now - begun) / self.server.token_time(len(self.running))
        self.seen = now

    def unread(self, job: Job) -> int:
        """Prompt tokens that must be read; what is read is kept, within the cache's size."""
        tokens, unknown = job.own, False
        path: tuple[Hashable, ...] = ()
        for name, length in job.prefixes:
            path = (*path, name)
            if not unknown and path in self.known:
                self.known.move_to_end(path)
                continue
            unknown = True
            tokens += length
            if length <= self.server.cache:
                self.known[path] = length
                self.kept += length
        while self.kept > self.server.cache:
            self.kept -= self.known.popitem(last=False)[1]
        return tokens

    def forget(self) -> list[Job]:
        """Fail: everything is lost; returns the requests that it had."""
        lost = [job for _, _, job in sorted(self.running, key=lambda x: x[1])] + list(self.waiting)
        self.running, self.waiting = [], deque()
        self.known.clear()
        self.kept, self.up = 0, False
        return lost


class Simulator:
    """The clock, the replicas and the router. Submit jobs, then :meth:`run`."""

    def __init__(self, cluster: Cluster, seed: int = 0) -> None:
        self.cluster = cluster
        self.replicas = [Replica(cluster.server) for _ in range(cluster.replicas)]
        self.now = 0.0
        self.finished = 0
        self.retried = 0
        self.prompt_tokens = self.read_tokens = self.written_tokens = 0
        self._random = generator(_STREAM, seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._queue: deque[Job] = deque()
        self._in_flight = self._pending = 0
        if math.isfinite(cluster.mean_uptime):
            for i in range(cluster.replicas):
                self._later(self._uptime(), lambda i=i: self._fail(i))  # type: ignore[misc]

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Have something happen at a time."""
        self._pending += 1

        def act() -> None:
            self._pending -= 1
            action()

        self._later(time, act)

    def submit(self, job: Job) -> None:
        """A request arrives now."""
        job.arrived = self.now
        self.prompt_tokens += job.own + sum(length for _, length in job.prefixes)
        self._pending += 1
        if job.first:
            self._queue.appendleft(job)
        else:
            self._queue.append(job)
        self._dispatch()

    def run(self) -> float:
        """Go on until all jobs are done; returns the time."""
        while self._pending and self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()
        return self.now

    # -- events --------------------------------------------------------------------------------

    def _later(self, time: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, action))

    def _uptime(self) -> float:
        return self.now + float(self._random.exponential(self.cluster.mean_uptime))

    def _dispatch(self) -> None:
        limit = self.cluster.concurrency
        while self._queue and (limit is None or self._in_flight < limit):
            at = self._route(self._queue[0])
            if at is None:
                return
            job = self._queue.popleft()
            job.attempts += 1
            self._in_flight += 1
            if job.first:
                self.replicas[at].waiting.appendleft(job)
            else:
                self.replicas[at].waiting.append(job)
            self._start(at)

    def _route(self, job: Job) -> int | None:
        up = [i for i, r in enumerate(self.replicas) if r.up]
        if not up:
            return None
        if self.cluster.routing == "world":
            return up[job.world % len(up)]
        if self.cluster.routing == "random":
            return up[int(self._random.integers(len(up)))]
        return min(up, key=lambda i: (self.replicas[i].in_flight, i))

    def _start(self, at: int) -> None:
        """Let waiting sequences run as far as there are slots, and foresee the next end."""
        replica = self.replicas[at]
        replica.advance(self.now)
        while replica.waiting and len(replica.running) < replica.server.slots:
            job = replica.waiting.popleft()
            unread = replica.unread(job)
            self.read_tokens += unread
            took = unread / replica.server.prefill
            replica.reading = max(self.now, replica.reading) + took
            self._number += 1
            heapq.heappush(replica.running, (replica.virtual + job.tokens, self._number, job))
        replica.version += 1
        if replica.running:
            version = replica.version
            left = max(0.0, replica.running[0][0] - replica.virtual)
            wait = left * replica.server.token_time(len(replica.running))
            self._later(max(self.now, replica.reading) + wait, lambda: self._end(at, version))

    def _end(self, at: int, version: int) -> None:
        replica = self.replicas[at]
        if not replica.up or version != replica.version:
            return
        replica.advance(self.now)
        first = replica.running[0][0]
        replica.virtual = max(replica.virtual, first)
        ended = []
        while replica.running and replica.running[0][0] <= first + 1e-9:
            ended.append(heapq.heappop(replica.running)[2])
        self._start(at)
        for job in ended:
            job.finished = self.now
            self.finished += 1
            self.written_tokens += job.tokens
            self._in_flight -= 1
            self._pending -= 1
            if job.done is not None:
                job.done(job)
        self._dispatch()

    def _fail(self, at: int) -> None:
        replica = self.replicas[at]
        replica.advance(self.now)
        lost = replica.forget()
        replica.version += 1
        self.retried += len(lost)
        self._in_flight -= len(lost)
        self._queue.extendleft(reversed(lost))
        self._later(self.now + self.cluster.repair, lambda: self._repaired(at))
        self._dispatch()

    def _repaired(self, at: int) -> None:
        self.replicas[at].up = True
        self.replicas[at].reading = self.replicas[at].seen = self.now
        self._later(self._uptime(), lambda: self._fail(at))
        self._dispatch()


# -- worlds --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Population:
    """What worlds ask of the cluster: each step ``batch`` actions, then one summary."""

    worlds: int = 1
    batch: int = 16
    steps: int = 8
    instructions: int = 60
    """Prompt tokens that all requests of a phase begin with."""
    topic: int = 60
    """Prompt tokens that a world's requests begin with, behind the instructions."""
    mean_field: int = 120
    """Prompt tokens of the mean field, which the agents of a step share."""
    state: int = 60
    """Prompt tokens of one agent."""
    action: float = 30.0
    """Tokens of an action, on average (geometric, at most ``action_limit``)."""
    action_limit: int = 64
    summary_reads: int = 20
    """Prompt tokens of the summary for each action that it is of, as many as are shown."""
    shown: int = 64
    """Actions that a summary is shown at most."""
    summary: int = 150
    """Tokens of a summary."""
    variable: bool = True
    """Whether actions differ in length."""
    lockstep: bool = False
    """Whether a phase of all worlds ends before the next begins."""
    spread: float = 0.0
    """Seconds over which worlds that go on their own begin."""
    summaries_first: bool = False
    """Whether summaries go before actions that wait."""


@dataclass(frozen=True, slots=True)
class Played:
    """What a simulated run took."""

    seconds: float
    decisions: int
    summarising: float
    """Seconds in which a world waits for its summary, as a share of its time (mean over worlds)."""
    utilisation: float
    """Share of the time in which a replica had something running (mean over replicas)."""
    running: float
    """Sequences that ran on average on a replica."""
    hit_rate: float
    """Share of the prompt tokens that was in a cache."""
    retried: int
    """Requests that a failure sent elsewhere."""
    steady: float
    """Decisions a second from when all worlds have begun until the first one has ended."""

    @property
    def rate(self) -> float:
        """Decisions a second."""
        return self.decisions / self.seconds


def play(cluster: Cluster, population: Population, seed: int = 0) -> Played:
    """Simulate a population's run on a cluster."""
    simulator = Simulator(cluster, seed)
    worlds = _Worlds(simulator, population, seed)
    worlds.begin()
    seconds = simulator.run()
    replicas = simulator.replicas
    served = sum(worlds.token_seconds)
    return Played(
        seconds=seconds,
        decisions=population.worlds * population.batch * population.steps,
        summarising=worlds.summarising / max(worlds.total, 1e-12),
        utilisation=sum(r.busy for r in replicas) / (len(replicas) * seconds),
        running=served / (len(replicas) * seconds),
        hit_rate=1 - simulator.read_tokens / max(1, simulator.prompt_tokens),
        retried=simulator.retried,
        steady=worlds.steady(),
    )


class _Worlds:
    """Worlds as chains of phases, on one simulator."""

    def __init__(self, simulator: Simulator, population: Population, seed: int) -> None:
        self.simulator, self.of = simulator, population
        self.random = generator(_STREAM + 1, seed)
        self.step = [0] * population.worlds
        self.left = [0] * population.worlds
        self.began = [0.0] * population.worlds
        self.token_seconds: list[float] = []
        self.summarising = self.total = 0.0
        self.acted: list[float] = []  # when each action ended
        self.ended = math.inf  # when the first world had
        self.behind = 0  # worlds that have not ended the phase, in lockstep

    def begin(self) -> None:
        self.behind = self.of.worlds
        for world in range(self.of.worlds):
            wait = 0.0 if self.of.lockstep else self.of.spread * world / self.of.worlds
            self.simulator.at(wait, lambda world=world: self._act(world))  # type: ignore[misc]

    def _act(self, world: int) -> None:
        p, step = self.of, self.step[world]
        self.began[world], self.left[world] = self.simulator.now, p.batch
        prefixes = (
            ("act", p.instructions),
            (world, p.topic),
            (step, p.mean_field if step else 0),
        )
        for tokens in self._lengths():
            self.simulator.submit(Job(world, prefixes, p.state, tokens, self._acted))

    def _lengths(self) -> Sequence[int]:
        p = self.of
        if not p.variable:
            return [round(p.action)] * p.batch
        drawn = self.random.geometric(1 / p.action, p.batch)
        return [min(int(n), p.action_limit) for n in drawn]

    def steady(self) -> float:
        """Decisions a second while all worlds run; of the whole run where they hardly do."""
        begun = 0.0 if self.of.lockstep else self.of.spread
        if self.ended <= 1.5 * begun:
            return len(self.acted) / self.simulator.now
        return sum(begun < t <= self.ended for t in self.acted) / (self.ended - begun)

    def _acted(self, job: Job) -> None:
        self.acted.append(job.finished)
        self.token_seconds.append(job.finished - job.arrived)
        self.left[job.world] -= 1
        if not self.left[job.world]:
            self._phase_ends(job.world, self._summarise)

    def _summarise(self, world: int) -> None:
        p = self.of
        now = self.simulator.now
        self.total += now - self.began[world]
        self.began[world] = now
        prefixes = (("summary", p.instructions), (world, p.topic))
        own = (p.mean_field if self.step[world] else 0) + p.summary_reads * min(p.batch, p.shown)
        job = Job(world, prefixes, own, p.summary, self._summarised, first=p.summaries_first)
        self.simulator.submit(job)

    def _summarised(self, job: Job) -> None:
        self.token_seconds.append(job.finished - job.arrived)
        self._phase_ends(job.world, self._next)

    def _next(self, world: int) -> None:
        took = self.simulator.now - self.began[world]
        self.summarising += took
        self.total += took
        self.step[world] += 1
        if self.step[world] < self.of.steps:
            self._act(world)
        else:
            self.ended = min(self.ended, self.simulator.now)

    def _phase_ends(self, world: int, following: Callable[[int], None]) -> None:
        if not self.of.lockstep:
            following(world)
            return
        self.behind -= 1
        if not self.behind:
            self.behind = self.of.worlds
            for each in range(self.of.worlds):
                following(each)
