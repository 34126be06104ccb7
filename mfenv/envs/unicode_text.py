"""A text space for any Unicode string, which vector environments can share between processes.

``gymnasium.spaces.Text`` lists its characters one by one (a second or more for all of Unicode)
and is read only once by ``AsyncVectorEnv(shared_memory=True)``, so that later observations never
arrive. :class:`UnicodeText` lists nothing, and its shared memory is read when it is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, overload

import numpy as np
from gymnasium.spaces import Box, Space, Tuple, flatdim, flatten, flatten_space, unflatten
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import (
    batch_differing_spaces,
    create_empty_array,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from numpy.typing import NDArray

__all__ = ["UnicodeText"]

_LAST = 0x10FFFF
# Samples mix scripts and symbols, so that whatever takes a text meets more than ASCII.
_SAMPLED: tuple[tuple[int, int], ...] = (
    (0x20, 0x7F),  # ASCII
    (0x20, 0x7F),
    (0xC0, 0x180),  # Latin with accents
    (0x4E00, 0x9FA6),  # Chinese
    (0x1F600, 0x1F645),  # emoji
)


class UnicodeText(Space[str]):
    """Strings of ``min_length`` to ``max_length`` code points, of any script.

    A string with a lone surrogate is not in the space, because it cannot be written as UTF-8.
    """

    def __init__(
        self,
        max_length: int,
        *,
        min_length: int = 0,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        """Make the space; ``ValueError`` unless ``0 <= min_length <= max_length``."""
        if not 0 <= min_length <= max_length:
            raise ValueError(
                f"min_length {min_length} and max_length {max_length} are not allowed; "
                "allowed: 0 <= min_length <= max_length"
            )
        self.min_length = int(min_length)
        self.max_length = int(max_length)
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """A flattened text is an int32 array: the code points plus one, padded with zeros."""
        return True

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Draw a string of a random length, its characters from several scripts.

        Raises ``ValueError`` for a mask or a probability: this space lists no characters.
        """
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText.sample takes neither a mask nor a probability")
        length = int(self.np_random.integers(self.min_length, self.max_length + 1))
        low, high = np.array(_SAMPLED)[self.np_random.integers(len(_SAMPLED), size=length)].T
        return "".join(map(chr, self.np_random.integers(low, high)))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string of an allowed length that can be written as UTF-8."""
        if not isinstance(x, str) or not self.min_length <= len(x) <= self.max_length:
            return False
        try:
            x.encode()
        except UnicodeEncodeError:
            return False
        return True

    def clip(self, text: str) -> str:
        """Make any string fit: lone surrogates become ``�``, the end beyond the length is cut."""
        return text.encode("utf-8", "replace").decode("utf-8")[: self.max_length]

    def __repr__(self) -> str:
        return f"UnicodeText({self.min_length}, {self.max_length})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, UnicodeText)
            and self.min_length == other.min_length
            and self.max_length == other.max_length
        )

    __hash__ = None  # type: ignore[assignment]  # as every mutable space


class _SharedTexts(Sequence[str]):
    """The texts of ``n`` worlds in shared memory, read anew at every look; a copy is a tuple."""

    def __init__(self, cells: NDArray[np.int32]) -> None:
        self._cells = cells  # (n, 1 + max_length): the length, then the code points

    def __len__(self) -> int:
        return len(self._cells)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._cells[index]
        return "".join(map(chr, row[1 : 1 + row[0]].tolist()))

    def __eq__(self, other: object) -> bool:
        return tuple(self) == other

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __copy__(self) -> tuple[str, ...]:
        return tuple(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


def _points(text: str) -> NDArray[np.int32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<i4").astype(np.int32)


@create_shared_memory.register(UnicodeText)
def _create(space: UnicodeText, n: int = 1, ctx: Any = None) -> Any:
    return ctx.Array("i", n * (1 + space.max_length))


@read_from_shared_memory.register(UnicodeText)
def _read(space: UnicodeText, shared_memory: Any, n: int = 1) -> _SharedTexts:
    cells = np.frombuffer(shared_memory.get_obj(), dtype=np.int32)
    return _SharedTexts(cells.reshape(n, 1 + space.max_length))


@write_to_shared_memory.register(UnicodeText)
def _write(space: UnicodeText, index: int, value: str, shared_memory: Any) -> None:
    points = _points(value)
    cells = np.frombuffer(shared_memory.get_obj(), dtype=np.int32)
    row = cells.reshape(-1, 1 + space.max_length)[index]
    row[0] = len(points)
    row[1 : 1 + len(points)] = points


@create_empty_array.register(UnicodeText)
def _empty(space: UnicodeText, n: int = 1, fn: Any = np.zeros) -> tuple[str, ...]:
    return tuple(" " * space.min_length for _ in range(n))


@batch_differing_spaces.register(UnicodeText)
def _batch_differing(spaces: Sequence[UnicodeText]) -> Any:  # type: ignore[misc]
    return Tuple([deepcopy(space) for space in spaces])


@is_space_dtype_shape_equiv.register(UnicodeText)
def _equivalent(first: UnicodeText, second: Space[Any]) -> bool:
    return first == second


@flatdim.register(UnicodeText)
def _flatdim(space: UnicodeText) -> int:
    return space.max_length


@flatten.register(UnicodeText)
def _flatten(space: UnicodeText, x: str) -> NDArray[np.int32]:  # type: ignore[misc]
    result = np.zeros(space.max_length, dtype=np.int32)
    points = _points(x)
    result[: len(points)] = points + 1
    return result


@unflatten.register(UnicodeText)
def _unflatten(space: UnicodeText, x: NDArray[np.int32]) -> str:  # type: ignore[misc]
    return "".join(chr(p - 1) for p in x.tolist() if p > 0)


@flatten_space.register(UnicodeText)
def _flatten_space(space: UnicodeText) -> Box:
    return Box(0, _LAST + 1, (space.max_length,), np.int32)
