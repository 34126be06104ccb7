"""A Ray cluster: of this machine, or one that is there already."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Hashable
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError

from benchmarks.executors.base import Failure, Task, perform
from mfenv.errors import MfenvError

__all__ = ["RayExecutor", "on_ray"]

_STORE = 2**27  # bytes; nothing but tasks and failures goes through it
_STARTS = 3  # attempts to start a cluster
_RETRIES = 1  # Ray's own, of a task whose worker or machine died; then come ours


class RayExecutor:
    """Tasks of Ray, each with as many CPUs as it has threads.

    Ray gives a task's process ``OMP_NUM_THREADS`` of its CPUs. Raises ``MfenvError`` where there
    is no cluster at the address, or none of its machines has room for a task.
    """

    def __init__(self, workers: int, threads: int, address: str | None, gpus: float) -> None:
        self._workers, self._threads, self._gpus = workers, threads, gpus
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._started = False

    @property
    def slots(self) -> int:
        """Tasks that run at the same time; Ray lets those wait that find no room."""
        return self._workers

    def start(self, task: Task) -> Hashable:
        """Hand a task to Ray."""
        reference: Hashable = self._perform.remote(task)
        return reference

    def wait(self, running: Collection[Hashable]) -> tuple[Hashable, Failure | None]:
        """Wait for the first task to end; a worker that died is a failure."""
        ended, _ = ray.wait(list(running), num_returns=1)
        try:
            failure: Failure | None = ray.get(ended[0])
        except RayError as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            failure = Failure(f"{type(error).__name__}: {first}")
        return ended[0], failure

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if not ray.is_initialized():
            self._connect()
            self._started = True
        room = ray.cluster_resources()
        wanted = {"CPU": float(self._threads), "GPU": self._gpus}
        for name, amount in wanted.items():
            if room.get(name, 0.0) < amount:
                self.__exit__(None, None, None)
                raise MfenvError(
                    f"the Ray cluster has {room.get(name, 0.0):g} {name}s and a task needs "
                    f"{amount:g}; see --threads, --worker-gpus"
                )
        self._perform: Any = ray.remote(
            num_cpus=self._threads, num_gpus=self._gpus, max_retries=_RETRIES
        )(perform)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._started:
            ray.shutdown()
            self._started = False

    def _connect(self) -> None:
        """Start a cluster, or connect to one."""
        own: dict[str, Any] = {
            "num_cpus": self._workers * self._threads,
            "include_dashboard": False,
            "object_store_memory": _STORE,
        }
        # On a busy machine Ray's parts may take longer to start than it waits for them.
        for left in reversed(range(1 if self._address else _STARTS)):
            try:
                ray.init(
                    address=self._address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({} if self._address else own),
                )
            except Exception as error:  # Ray raises that, too
                ray.shutdown()
                if left:
                    continue
                reason = " ".join(str(error).split())[:300]
                at = f"at {self._address}" if self._address else "could be started here"
                raise MfenvError(
                    f"no Ray cluster {at}: {reason}. Start one with 'ray start --head' and name "
                    "it by --ray-address, or leave that and RAY_ADDRESS out; for one that wants "
                    "a token set RAY_AUTH_MODE=token (and RAY_AUTH_TOKEN on other machines)"
                ) from None
            return


def on_ray(
    workers: int, threads: int, *, address: str | None = None, gpus: float = 0.0, **_: object
) -> RayExecutor:
    """The executor ``ray``."""
    return RayExecutor(workers, threads, address, gpus)
