"""The command line: ``mfenv COMMAND …``. It only dispatches.

Commands come from the entry point group ``mfenv.commands``. Each is a module with a one-line
``HELP``, ``add_arguments(parser)`` and ``run(args) -> int``. Only the module of the chosen command
is imported, so a command that works on data needs no language model.

Exit codes: 0 success, 2 for what the person can put right (one line on stderr), 130 interrupted,
141 when the reader of a pipe went away.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import mfenv
from mfenv import plugins
from mfenv.errors import MfenvError, MissingExtraError

__all__ = ["GROUP", "Command", "Jobs", "Parser", "execute", "integer", "main", "script"]

GROUP = "mfenv.commands"

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Command(Protocol):
    """What a module needs to be a command."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code."""
        ...


class UsageError(MfenvError):
    """Wrong arguments; the message says what is allowed."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line that says what is allowed."""

    def error(self, message: str) -> NoReturn:
        """Raise the complaint, so that it is printed like every other error."""
        options = ", ".join(
            name for action in self._actions for name in action.option_strings[-1:] if name
        )
        if message.startswith("unrecognized arguments") and options:
            message += f"; allowed: {options}"
        raise UsageError(" ".join(f"{message} (see: {self.prog} --help)".split()))


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse ``type`` for whole numbers from ``low`` to ``high``, both included."""
    allowed = f"a whole number of at least {low}" if high is None else f"{low} to {high}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: {allowed}")
        return value

    return parse


def execute(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse ``argv`` as a command's arguments and run it; returns its exit code."""
    parser = Parser(prog=prog, description=command.HELP, allow_abbrev=False)
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(argv)))


@dataclass(frozen=True, slots=True)
class Jobs:
    """A command of several jobs, ``mfenv NAME JOB …``; only the chosen job's module is imported."""

    name: str
    jobs: Mapping[str, tuple[str, str]]
    """Job → (module with ``HELP``, ``add_arguments`` and ``run``; what it does)."""
    extra: str | None = None
    """The extra with everything that any job imports; else the one of what is missing first."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the job; whatever follows belongs to the job's own parser."""
        what = "; ".join(f"{job}: {text}" for job, (_, text) in self.jobs.items())
        parser.add_argument("job", choices=self.jobs, help=what)
        parser.add_argument(
            "rest",
            nargs=argparse.REMAINDER,
            metavar="…",
            help=f"the job's arguments (mfenv {self.name} JOB --help shows them)",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Import the job's module and run it with the remaining arguments."""
        module, _ = self.jobs[args.job]
        prog = f"mfenv {self.name} {args.job}"
        try:
            return execute(importlib.import_module(module), prog, args.rest)
        except ModuleNotFoundError as error:
            missing = plugins.missing_extra(error, prog)
            if missing is None:
                raise
            raise MissingExtraError(self.extra or missing.extra, prog) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mfenv`` with these arguments (default: the process's) and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return _guarded("mfenv", argv, lambda: _dispatch(argv))


def script(command: Command, prog: str) -> int:
    """Run a command that is not registered (``python -m …``), with the same errors and codes."""
    argv = sys.argv[1:]
    return _guarded(prog, argv, lambda: execute(command, prog, argv))


def _guarded(prog: str, argv: Sequence[str], body: Callable[[], int]) -> int:
    """Turn what stops a command into one line and an exit code."""
    try:
        code = body()
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse after --help
        return stop.code if isinstance(stop.code, int) else 0
    except MfenvError as error:
        return _complain(str(error))
    except ModuleNotFoundError as error:
        missing = plugins.missing_extra(error, shlex.join([prog, *argv[:1]]))
        if missing is None:
            raise
        return _complain(str(missing))
    except KeyboardInterrupt:
        again = f"{prog} {shlex.join(argv)}"
        print(f"mfenv: interrupted; to go on, run the same command again: {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whatever is still buffered has no reader; without this the interpreter complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is not None:
            return _complain(f"{error.filename}: {error.strerror}")
        if error.errno not in _NO_ROOM:
            raise
        return _complain(f"{error.strerror}: make room, then run the same command again")


def _complain(message: str) -> int:
    print("mfenv: error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"mfenv {mfenv.__version__}")
        return 0
    if argv[0].startswith("-"):
        known = ", ".join(plugins.names(GROUP))
        raise UsageError(
            f"unknown option {argv[0]!r}; allowed: --help, --version, or a command: {known}"
        )
    command: Command = plugins.load(GROUP, argv[0])
    return execute(command, f"mfenv {argv[0]}", argv[1:])


def _overview() -> str:
    """The text of ``mfenv --help``: every registered command, also those that cannot run here."""
    lines = ["usage: mfenv [--help] [--version] COMMAND …", "", "commands:"]
    names = plugins.names(GROUP)
    width = max((len(name) for name in names), default=0)
    for name in names:
        try:
            text = plugins.load(GROUP, name).HELP
        except MissingExtraError as error:
            text = f"(not installed: pip install 'mfenv[{error.extra}]')"
        except MfenvError as error:
            text = f"(cannot be loaded: {error})"
        except Exception as error:  # one broken plugin must not hide the other commands
            text = f"(cannot be loaded: {type(error).__name__}: {error})"
        lines.append(f"  {name:{width}}  {' '.join(text.split())}")
    return "\n".join([*lines, "", "mfenv COMMAND --help shows a command's arguments."])
