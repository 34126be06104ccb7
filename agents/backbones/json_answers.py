"""JSON that a language model was asked for: the instruction, and reading what came.

The checks cover what a small answer schema needs (types, required and further properties, enums,
lengths of arrays); a keyword that is not known here is left to the server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["instruction", "mismatch", "read_object"]

_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def instruction(schema: Mapping[str, Any]) -> str:
    """Asks for JSON of a schema in words, for servers that cannot be told otherwise."""
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return f"Answer with one JSON object and nothing else. It must match this JSON schema:\n{text}"


def read_object(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Read a JSON object of a schema, in a code fence or not.

    Raises ``ValueError`` that says what is wrong.
    """
    text = text.strip()
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} found, an object expected")
    problem = mismatch(value, schema)
    if problem is not None:
        raise ValueError(problem)
    return value


def mismatch(value: Any, schema: Mapping[str, Any], where: str = "answer") -> str | None:
    """What of a JSON value does not match a schema; ``None`` where all of it does."""
    if "enum" in schema and value not in schema["enum"]:
        return f"{where}: {value!r} is none of {', '.join(map(repr, schema['enum']))}"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{where}: {type(value).__name__} found, {' or '.join(kinds)} expected"
    if isinstance(value, dict):
        return _object_mismatch(value, schema, where)
    if isinstance(value, list):
        return _array_mismatch(value, schema, where)
    return None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind != "boolean":  # Python counts booleans as integers
        return False
    return isinstance(value, _TYPES.get(kind, object))


def _object_mismatch(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> str | None:
    properties = schema.get("properties", {})
    missing = [name for name in schema.get("required", []) if name not in value]
    if missing:
        return f"{where}: {', '.join(missing)} missing"
    further = [name for name in value if name not in properties]
    if further and schema.get("additionalProperties", True) is False:
        return f"{where}: {', '.join(further)} not expected"
    problems = (
        mismatch(x, properties[name], f"{where}.{name}")
        for name, x in value.items()
        if name in properties
    )
    return next((p for p in problems if p is not None), None)


def _array_mismatch(value: list[Any], schema: Mapping[str, Any], where: str) -> str | None:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not least <= len(value) <= most:
        return f"{where}: {len(value)} items, {least} to {most} expected"
    problems = (mismatch(x, schema.get("items", {}), f"{where}[{i}]") for i, x in enumerate(value))
    return next((p for p in problems if p is not None), None)
