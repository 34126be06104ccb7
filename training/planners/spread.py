"""Lanes of a rollout on several workers: processes of this machine, or actors of a Ray cluster.

Lanes are stepped in groups. With language models a group's size does not hang on the workers: they
see the same batches wherever it is. In the other tiers no lane hangs on its neighbours. Every
rollout begins with seeds, so what a group is in is given by them and the actions since; a worker
that dies is replaced, and its groups are brought there again.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mfenv import plugins
from mfenv.envs.registration import SOCIAL
from mfenv.errors import MfenvError

__all__ = ["HERE", "Crew", "Spread", "SpreadVectorEnv", "group_sizes"]

_LANGUAGE = 64
_TRIES = 3
_GRACE = 2.0  # seconds

Group = tuple[int, int]
"""An environment's number, and that of a group of its lanes."""
Call = tuple[Group, str, tuple[Any, ...], dict[str, Any]]
"""A method of a group's environment, and the arguments."""


def group_sizes(dynamics: str, num_envs: int, workers: int) -> list[int]:
    """Lanes of each group, as even as can be.

    With language models at most 64, whatever the number of workers; elsewhere one group a worker.
    """
    groups = -(-num_envs // _LANGUAGE) if dynamics == "llm" else min(workers, num_envs)
    return [len(lanes) for lanes in np.array_split(np.arange(num_envs), groups)]


class Groups:
    """What a worker holds: groups of lanes."""

    def __init__(self) -> None:
        self._envs: dict[Group, VectorEnv[Any, Any, Any]] = {}

    def perform(self, calls: Sequence[Call]) -> list[Any]:
        """The results of calls, in order; ``make`` takes a size and the environment's arguments."""
        return [self._perform(*call) for call in calls]

    def _perform(
        self, group: Group, method: str, given: tuple[Any, ...], named: Mapping[str, Any]
    ) -> Any:
        if method == "make":
            made = gymnasium.make_vec(f"mfenv:{SOCIAL}", num_envs=given[0], **named)
            self._envs[group] = made
            return None
        return getattr(self._envs[group].unwrapped, method)(*given, **named)


class WorkerDied(Exception):
    """Whoever had the call is not there any more."""


class Worker(Protocol):
    """Takes calls for its groups, one list at a time."""

    def send(self, calls: Sequence[Call]) -> None:
        """Begin calls. Raises ``WorkerDied``."""
        ...

    def receive(self) -> list[Any]:
        """Their results. Raises ``WorkerDied``, and ``MfenvError`` as the environment does."""
        ...

    def end(self) -> None:
        """Stop it, whatever it does."""
        ...


class _Here:
    """This process."""

    def __init__(self) -> None:
        self._groups, self._asked = Groups(), list[Call]()

    def send(self, calls: Sequence[Call]) -> None:
        self._asked = list(calls)

    def receive(self) -> list[Any]:
        return self._groups.perform(self._asked)

    def end(self) -> None:
        pass


class _Process:
    """A process of this machine, which ends with the one that started it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe: Connection
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # else its death could not be seen

    def send(self, calls: Sequence[Call]) -> None:
        try:
            self._pipe.send(calls)
        except OSError:
            raise WorkerDied from None

    def receive(self) -> list[Any]:
        try:
            found = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerDied from None
        if isinstance(found, MfenvError):
            raise found
        results: list[Any] = found
        return results

    def end(self) -> None:
        self._pipe.close()  # it ends by itself, unless it is in the middle of something
        self._process.join(_GRACE)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    groups = Groups()
    while True:
        try:
            calls = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            found: Any = groups.perform(calls)
        except MfenvError as error:
            found = error
        pipe.send(found)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Actor:
    """An actor of the Ray cluster that this process is connected to."""

    def __init__(self, threads: int, gpus: float) -> None:
        import ray

        made = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0)(Groups)
        self._ray, self._actor = ray, made.remote()
        self._asked: Any = None

    def send(self, calls: Sequence[Call]) -> None:
        self._asked = self._actor.perform.remote(calls)

    def receive(self) -> list[Any]:
        try:
            results: list[Any] = self._ray.get(self._asked)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError:
            raise WorkerDied from None
        return results

    def end(self) -> None:
        self._ray.kill(self._actor)


class Crew:
    """Workers that several environments share; one that died is replaced when it is asked again."""

    def __init__(self, size: int, hire: Callable[[], Worker]) -> None:
        self.size = size
        self._hire = hire
        self._workers: list[Worker | None] = [None] * size
        self._hired = [0] * size
        self._environments = 0

    def lanes(self, arguments: Mapping[str, Any], num_envs: int) -> SpreadVectorEnv:
        """An environment whose lanes these workers step."""
        self._environments += 1
        return SpreadVectorEnv(arguments, num_envs, self, self._environments)

    def hired(self, index: int) -> int:
        """The how manieth worker it is that has this place, who is hired if nobody has it."""
        if self._workers[index] is None:
            self._workers[index] = self._hire()
            self._hired[index] += 1
        return self._hired[index]

    def send(self, index: int, calls: Sequence[Call]) -> bool:
        """Begin calls; False if the worker is not there any more."""
        worker = self._workers[index]
        assert worker is not None
        try:
            worker.send(calls)
        except WorkerDied:
            self._lost(index)
            return False
        return True

    def receive(self, index: int) -> list[Any] | None:
        """The calls' results; None if the worker is not there any more."""
        worker = self._workers[index]
        assert worker is not None
        try:
            return worker.receive()
        except WorkerDied:
            self._lost(index)
            return None

    def end(self) -> None:
        """Stop all workers."""
        for index in range(self.size):
            self._lost(index)

    def _lost(self, index: int) -> None:
        worker, self._workers[index] = self._workers[index], None
        if worker is not None:
            worker.end()


@dataclass(slots=True)
class _Lanes:
    """Lanes that a worker steps together."""

    where: slice
    latest: NDArray[np.float32]
    since: list[Call] = field(default_factory=list)
    """All calls since they were seeded."""
    worker: int = 0
    """The how manieth worker of its place has them."""


class SpreadVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], Any]):
    """The planner's environment with its lanes on workers; else as ``SocialVectorEnv``."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, arguments: Mapping[str, Any], num_envs: int, crew: Crew, number: int
    ) -> None:
        """``number`` tells the crew's environments apart."""
        one = gymnasium.make_vec(f"mfenv:{SOCIAL}", num_envs=1, **arguments)
        self.num_envs = num_envs
        self.single_observation_space: Space[Any] = one.single_observation_space
        self.single_action_space: Space[Any] = one.single_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        width = self.single_observation_space.shape or ()
        self._arguments, self._crew, self._number = dict(arguments), crew, number
        self._groups: list[_Lanes] = []
        for size in group_sizes(str(arguments["dynamics"]), num_envs, crew.size):
            first = self._groups[-1].where.stop if self._groups else 0
            latest = np.zeros((size, *width), dtype=np.float32)
            self._groups.append(_Lanes(slice(first, first + size), latest))

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start episodes in every lane, or where ``options["reset_mask"]`` is true."""
        seeds = [seed] * self.num_envs if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + i for i in range(self.num_envs)]
        options = options or {}
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        calls: dict[int, Call] = {}
        for i, group in enumerate(self._groups):
            if mask[group.where].any():
                own = {n: v[group.where] if _by_lane(v) else v for n, v in options.items()}
                given = {"seed": list(seeds[group.where]), "options": own}
                calls[i] = ((self._number, i), "reset", (), given)
                if mask[group.where].all() and None not in given["seed"]:
                    group.since = []  # nothing before is of any account
        found = self._call(calls)
        for i, (observation, _) in found.items():
            self._groups[i].latest = observation
        infos = self._gathered({i: info for i, (_, info) in found.items()})
        return np.concatenate([group.latest for group in self._groups]), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.float32], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Step every lane; one whose episode was over starts the next, with reward 0."""
        actions = np.asarray(actions)
        found = self._call(
            {
                i: ((self._number, i), "step", (actions[group.where],), {})
                for i, group in enumerate(self._groups)
            }
        )
        for i, result in found.items():
            self._groups[i].latest = result[0]
        columns = list(zip(*(found[i] for i in range(len(self._groups))), strict=True))
        infos = self._gathered({i: result[4] for i, result in found.items()})
        observation, reward, over, cut = (np.concatenate(column) for column in columns[:4])
        return observation, reward, over, cut, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """What each lane's budget can pay."""
        every = range(len(self._groups))
        found = self._call({i: ((self._number, i), "action_masks", (), {}) for i in every})
        return np.concatenate([found[i] for i in every])

    # -- inside ----------------------------------------------------------------------------

    def _call(self, calls: Mapping[int, Call]) -> dict[int, Any]:
        """Results by group; all workers are at it at the same time."""
        found: dict[int, Any] = {}
        for attempt in range(_TRIES):
            asked = {}
            for index in range(self._crew.size):
                every = range(index, len(self._groups), self._crew.size)
                mine = [i for i in every if i in calls and i not in found]
                if mine and self._ask(index, [calls[i] for i in mine]):
                    asked[index] = mine
            refused: MfenvError | None = None
            for index, mine in asked.items():
                try:
                    results = self._crew.receive(index)
                except MfenvError as error:  # the others' answers are taken all the same
                    refused = refused or error
                    continue
                if results is not None:
                    found |= dict(zip(mine, results[-len(mine) :], strict=True))
            if refused is not None:
                raise refused
            if len(found) == len(calls):
                for i, call in calls.items():
                    if call[1] != "action_masks":
                        self._groups[i].since.append(call)
                return found
            if attempt + 1 < _TRIES:
                print("a worker died; its lanes go on in another one", flush=True)
        raise MfenvError(
            f"a worker of the rollouts died {_TRIES} times at the same step; is there memory for "
            f"{self._crew.size} workers? Use fewer --workers and repeat the command: it goes on "
            "from the last checkpoint"
        )

    def _ask(self, index: int, calls: Sequence[Call]) -> bool:
        """Send calls to a worker, who is first brought to where its groups are if it is new."""
        hired = self._crew.hired(index)
        before: list[Call] = []
        for i in range(index, len(self._groups), self._crew.size):
            group = self._groups[i]
            if group.worker != hired:
                size = group.where.stop - group.where.start
                before.append(((self._number, i), "make", (size,), self._arguments))
                before += group.since
                group.worker = hired
        return self._crew.send(index, [*before, *calls])

    def _gathered(self, found: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        """Infos of all lanes; those of a group that was not asked are masked."""
        first = next(iter(found.values()))
        infos: dict[str, Any] = {}
        for name in (n for n in first if not n.startswith("_")):
            example = np.asarray(first[name])
            values = np.zeros((self.num_envs, *example.shape[1:]), dtype=example.dtype)
            known = np.zeros(self.num_envs, dtype=bool)
            for i, info in found.items():
                where = self._groups[i].where
                values[where], known[where] = info[name], info[f"_{name}"]
            infos[name], infos[f"_{name}"] = values, known
        return infos


def _by_lane(value: Any) -> bool:
    return not isinstance(value, str) and np.ndim(value) == 1


@dataclass(frozen=True, slots=True)
class Spread:
    """Where the lanes of rollouts are stepped."""

    executor: str = "local"
    workers: int = 1
    threads: int = 1
    address: str | None = None
    gpus: float = 0.0

    @contextmanager
    def opened(self) -> Iterator[Crew]:
        """The workers, and what has to be open for them: Ray's connection to its cluster."""
        with ExitStack() as stack:
            if self.executor == "ray":
                connect = plugins.load("mfenv.executors", self.executor)
                stack.enter_context(
                    connect(self.workers, self.threads, address=self.address, gpus=self.gpus)
                )
            crew = Crew(self.workers, self._hire)
            stack.callback(crew.end)
            yield crew

    def _hire(self) -> Worker:
        if self.executor == "ray":
            return _Actor(self.threads, self.gpus)
        return _Here() if self.workers == 1 else _Process()


HERE = Spread()
"""In this process."""
