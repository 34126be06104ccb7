"""Settings of a training in a TOML file, and those that come with the package.

A file names the command's own options without their dashes: ``learning-rate = 1e-5``. For several
GPUs there are files for ``accelerate launch`` beside this one.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

__all__ = ["ConfigOption", "known"]


def known() -> list[str]:
    """Names of the settings that come with the package."""
    found = (p.name for p in files(__package__).iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


class ConfigOption(argparse.Action):
    """``--config``: takes options from a TOML file; those that stand behind it count more."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Set what the file says, each value checked as its option would be."""
        name = str(values)
        if name in known():
            text = files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
        else:
            try:
                text = Path(name).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                raise argparse.ArgumentError(
                    self, f"{name!r} cannot be read; allowed: a TOML file or {', '.join(known())}"
                ) from None
        try:
            settings = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise argparse.ArgumentError(self, f"{name}: {error}") from None
        options = parser._option_string_actions
        for key, value in settings.items():
            action = options.get(f"--{key}")
            if action is None or action is self or action.required:
                allowed = [o[2:] for o, a in options.items() if o[:2] == "--" and not a.required]
                raise argparse.ArgumentError(
                    self, f"{name}: {key!r} is no setting; allowed: {', '.join(sorted(allowed))}"
                )
            try:
                checked = parser._get_values(action, [str(value)])
            except argparse.ArgumentError as error:
                raise argparse.ArgumentError(self, f"{name}: {error}") from None
            setattr(namespace, action.dest, checked)
        setattr(namespace, self.dest, name)
