"""Eight lanes as one value in numba-compiled code.

LLVM vectorises loops where it finds that it may; these types leave it no choice. ``Doubles`` and
``Words`` are eight doubles and eight 64-bit integers; arithmetic is lane by lane and exact IEEE
(``fma`` is fused on every machine), so that a lane's bits depend neither on the others nor on its
place. On hardware with narrower registers LLVM splits them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import (
    intrinsic,
    lower_builtin,
    models,
    register_model,
    type_callable,
)

__all__ = [
    "LANES",
    "at_least",
    "below",
    "bits",
    "ceiling",
    "count",
    "doubles",
    "floor",
    "fma",
    "larger",
    "load",
    "load_words",
    "pick",
    "power_of_two",
    "some",
    "square_root",
    "store",
    "store_words",
    "take",
    "total",
    "truncated",
    "words",
]

LANES = 8

_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
_WORDS = ir.VectorType(ir.IntType(64), LANES)
_FLAGS = ir.VectorType(ir.IntType(1), LANES)


class _Vector(types.Type):  # type: ignore[misc]
    """One of the three kinds of eight."""


_doubles, _words, _flags = (_Vector(name=n) for n in ("Doubles", "Words", "Flags"))


@register_model(_Vector)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, fe_type: _Vector) -> None:
        kinds = {_doubles: _DOUBLES, _words: _WORDS, _flags: _FLAGS}
        super().__init__(manager, fe_type, kinds[fe_type])


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, one, zeros)


@intrinsic
def doubles(typing: Any, value: Any) -> Any:
    """Eight times a double; or eight words as doubles."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if value == _words:
            return builder.sitofp(args[0], _DOUBLES)
        number = context.cast(builder, args[0], value, types.float64)
        return _splat(builder, number, _DOUBLES)

    return _doubles(value), code


@intrinsic
def words(typing: Any, value: Any) -> Any:
    """Eight times an integer."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, context.cast(builder, args[0], value, types.int64), _WORDS)

    return _words(value), code


def _place(context: Any, builder: Any, array: Any, value: Any, index: Any, kind: Any) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _loading(result: Any, kind: Any) -> Any:
    def load(typing: Any, array: Any, index: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = context.cast(builder, args[1], index, types.intp)
            found = builder.load(_place(context, builder, array, args[0], place, kind))
            found.align = 8
            return found

        return result(array, index), code

    return load


def _storing(held: Any, kind: Any) -> Any:
    def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = context.cast(builder, args[1], index, types.intp)
            where = _place(context, builder, array, args[0], place, kind)
            builder.store(args[2], where).align = 8
            return context.get_dummy_value()

        return types.none(array, index, held), code

    return store


load = intrinsic(_loading(_doubles, _DOUBLES))
"""Eight doubles of a flat array from an index on."""
load_words = intrinsic(_loading(_words, _WORDS))
"""Eight words of a flat array from an index on."""
store = intrinsic(_storing(_doubles, _DOUBLES))
"""Put eight doubles into a flat array from an index on."""
store_words = intrinsic(_storing(_words, _WORDS))
"""Put eight words into a flat array from an index on."""


def _of_llvm(name: str, operands: int) -> Any:
    def function(typing: Any, *operand: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(_DOUBLES, [_DOUBLES] * operands)
            found = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f64")
            return builder.call(found, args)

        return _doubles(*[_doubles] * operands), code

    return function


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``a · b + c``, rounded once."""
    return _of_llvm("fma", 3)(typing, a, b, c)


@intrinsic
def square_root(typing: Any, a: Any) -> Any:
    """Square roots."""
    return _of_llvm("sqrt", 1)(typing, a)


@intrinsic
def floor(typing: Any, a: Any) -> Any:
    """The largest whole numbers that are not above, as doubles."""
    return _of_llvm("floor", 1)(typing, a)


@intrinsic
def larger(typing: Any, a: Any, b: Any) -> Any:
    """The larger of each pair."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return _doubles(_doubles, _doubles), code


@intrinsic
def at_least(typing: Any, a: Any, b: Any) -> Any:
    """Flags of where ``a >= b``, of doubles or of words."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        compare = builder.fcmp_ordered if a == _doubles else builder.icmp_signed
        return compare(">=", *args)

    return _flags(a, a), code


@intrinsic
def below(typing: Any, a: Any, b: Any) -> Any:
    """Flags of where ``a < b``, of doubles."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fcmp_ordered("<", *args)

    return _flags(_doubles, _doubles), code


@intrinsic
def some(typing: Any, flags: Any) -> Any:
    """Whether any flag is set."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", mask, ir.IntType(LANES)(0))

    return types.boolean(_flags), code


@intrinsic
def pick(typing: Any, flags: Any, a: Any, b: Any) -> Any:
    """``a`` where a flag is set, else ``b``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return a(_flags, a, a), code


@intrinsic
def count(typing: Any, flags: Any) -> Any:
    """Words: 1 where a flag is set, else 0."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(args[0], _WORDS)

    return _words(_flags), code


@intrinsic
def ceiling(typing: Any, a: Any) -> Any:
    """The least words that are not below nonnegative doubles."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        down = builder.fptosi(args[0], _WORDS)
        short = builder.fcmp_ordered("<", builder.sitofp(down, _DOUBLES), args[0])
        return builder.add(down, builder.zext(short, _WORDS))

    return _words(_doubles), code


@intrinsic
def truncated(typing: Any, a: Any) -> Any:
    """Words of doubles, rounded to zero."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fptosi(args[0], _WORDS)

    return _words(_doubles), code


@intrinsic
def bits(typing: Any, a: Any) -> Any:
    """The words that doubles are stored as."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _WORDS)

    return _words(_doubles), code


@intrinsic
def take(typing: Any, array: Any, index: Any) -> Any:
    """Doubles of a flat array at words."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(array)(context, builder, args[0]).data
        found = ir.Constant(_DOUBLES, ir.Undefined)
        for lane in map(ir.IntType(32), range(LANES)):
            place = builder.gep(data, [builder.extract_element(args[1], lane)])
            found = builder.insert_element(found, builder.load(place), lane)
        return found

    return _doubles(array, _words), code


@intrinsic
def power_of_two(typing: Any, a: Any, magic: Any) -> Any:
    """``a · 2^k`` with the whole number k in the lowest bits of ``magic`` (1.5 · 2^52 + k)."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, shifted = (builder.bitcast(x, _WORDS) for x in args)
        k = builder.shl(shifted, ir.Constant(_WORDS, [52] * LANES))
        return builder.bitcast(builder.add(value, k), _DOUBLES)

    return _doubles(_doubles, _doubles), code


@intrinsic
def total(typing: Any, a: Any) -> Any:
    """The sum of the eight, in a fixed order."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, half = args[0], LANES // 2
        while half:
            places = ir.VectorType(ir.IntType(32), half)
            low, high = (
                ir.Constant(places, list(range(first, first + half))) for first in (0, half)
            )
            value = builder.fadd(
                builder.shuffle_vector(value, value, low),
                builder.shuffle_vector(value, value, high),
            )
            half //= 2
        return builder.extract_element(value, ir.IntType(32)(0))

    return types.float64(_doubles), code


def _operator(function: Callable[..., Any], kind: Any, name: str) -> None:
    def typer(context: Any) -> Callable[[Any, Any], Any]:
        return lambda a, b: kind if a == kind and b == kind else None

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return getattr(builder, name)(*args)

    type_callable(function)(typer)
    lower_builtin(function, kind, kind)(code)


for _function, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_function, _doubles, _name)
for _function, _name in (
    (operator.add, "add"),
    (operator.sub, "sub"),
    (operator.mul, "mul"),
    (operator.xor, "xor"),
    (operator.and_, "and_"),
    (operator.rshift, "lshr"),
):
    _operator(_function, _words, _name)
for _function, _name in ((operator.and_, "and_"), (operator.or_, "or_")):
    _operator(_function, _flags, _name)
