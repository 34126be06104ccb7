"""A hash of everything that decides what prompts say."""

from __future__ import annotations

import hashlib
from importlib.resources import files

__all__ = ["prompts_digest"]


def prompts_digest() -> str:
    """SHA-256 of the prompts' code and data files."""
    digest = hashlib.sha256()
    parts = [p for p in files("agents.prompts").iterdir() if p.name.endswith((".py", ".toml"))]
    for part in sorted(parts, key=lambda p: p.name):
        data = part.read_bytes()
        digest.update(f"{part.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()
