"""What figures were measured on."""

from __future__ import annotations

import os
import platform
import sys

__all__ = ["machine"]


def machine() -> str:
    """What the figures were measured on, without anything that names the machine."""
    parts = [
        f"{os.cpu_count()} CPU cores ({platform.machine()})",
        f"Python {platform.python_version()}",
    ]
    torch = sys.modules.get("torch")
    if torch is not None:
        parts.append(f"torch {torch.__version__}")
        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name(0))
    return ", ".join(parts)
