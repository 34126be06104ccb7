"""The grid's tasks for workers, which know of it what its arguments say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.executors import Task
from benchmarks.fidelity.measure import (
    Plan,
    block_files,
    blocks,
    cost,
    is_played,
    likelihood_block,
    likelihood_blocks,
    likelihood_path,
    play_block,
)

if TYPE_CHECKING:
    from benchmarks.fidelity.command import Prepared

__all__ = ["Grid", "Piece", "grid_files", "grid_of", "grid_tasks", "play_piece"]

Grid = tuple[tuple[str, Any], ...]
"""The arguments that say which runs are wanted, by name."""

_SCORE, _ROLL = "likelihood", "rollout"


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of a condition."""

    grid: Grid
    kind: str
    """``rollout`` or ``likelihood``."""
    condition: int
    block: int


def grid_of(args: argparse.Namespace) -> Grid:
    """The arguments of the grid, as values that can be sent and compared."""
    # Not all of a command's arguments: those of where it runs and writes are not the workers'.
    from benchmarks.fidelity.command import declare_grid

    parser = argparse.ArgumentParser()
    declare_grid(parser)
    names = sorted(vars(parser.parse_args([])))
    values = {name: getattr(args, name) for name in names}
    return tuple((n, tuple(v) if isinstance(v, list) else v) for n, v in values.items())


def grid_tasks(prepared: Prepared, grid: Grid, place: str) -> list[Task]:
    """The tasks of all conditions that are not done in the run's folder."""
    tasks = []
    here = str(Path.cwd())
    for number, plan in enumerate(prepared.plans):
        name = plan.condition.name
        for k, runs in enumerate(blocks(plan)):
            if not is_played(plan, runs):
                cases = len({task.case for task in runs})
                tasks.append(
                    Task(
                        name=f"{name}, {runs[0].method}, cases {runs[0].case + 1} to "
                        f"{runs[0].case + cases}",
                        play=play_piece,
                        argument=Piece(grid, _ROLL, number, k),
                        cost=cost(plan, runs),
                        files=_inside(plan, block_files(plan, runs)),
                        place=place,
                        here=here,
                    )
                )
        if not prepared.likelihood:
            continue
        for k, block in enumerate(likelihood_blocks(plan)):
            if not likelihood_path(plan, block).exists():
                tasks.append(
                    Task(
                        name=f"{name}, likelihood of cases {block.start + 1} to {block.stop}",
                        play=play_piece,
                        argument=Piece(grid, _SCORE, number, k),
                        # Real actions are read, which takes less than to write as many.
                        cost=len(block) * len(plan.methods) * plan.condition.horizon / 2,
                        files=_inside(plan, [likelihood_path(plan, block)]),
                        place=place,
                        here=here,
                    )
                )
    return tasks


def grid_files(prepared: Prepared) -> list[str]:
    """All files of the grid's journals and likelihoods, inside the run's folder."""
    found: list[str] = []
    for plan in prepared.plans:
        for runs in blocks(plan):
            found += _inside(plan, block_files(plan, runs))
        found += _inside(plan, [likelihood_path(plan, b) for b in likelihood_blocks(plan)])
    return found


def play_piece(piece: Piece, folder: Path) -> None:
    """Play a block, or compute its likelihoods, with the files in a folder."""
    plan = replace(_prepared(piece.grid).plans[piece.condition], folder=folder)
    if piece.kind == _ROLL:
        play_block(plan, blocks(plan)[piece.block])
    else:
        likelihood_block(plan, likelihood_blocks(plan)[piece.block])


def _inside(plan: Plan, paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(path.relative_to(plan.folder).as_posix() for path in paths)


@lru_cache(maxsize=1)
def _prepared(grid: Grid) -> Prepared:
    """Events and models are loaded once in a worker."""
    from benchmarks.fidelity.command import prepare

    return prepare(argparse.Namespace(**dict(grid)))
