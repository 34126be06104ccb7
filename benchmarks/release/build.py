"""Build the wheel and the sdist of a commit, and look into them."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mfenv.errors import MfenvError

__all__ = ["MAX_WEIGHTS", "Built", "build", "inspect", "tracked"]

MAX_WEIGHTS = 25_000_000
"""Bytes of shipped weights, unpacked."""

_PACKAGES = ("mfenv", "agents", "training", "benchmarks")
_ENTRIES, _TABLES = PurePosixPath("benchmarks/entries"), (".md", ".png")
_LEFT_OUT = (".gitignore", ".ci/run")  # of the repository, not of a release


@dataclass(frozen=True, slots=True)
class Built:
    """The two files."""

    wheel: Path
    sdist: Path


def tracked(root: Path) -> list[str]:
    """Names of the files in the commit that is checked out."""
    listed = _git(root, "ls-tree", "-r", "-z", "--name-only", "HEAD")
    return [name for name in listed.decode().split("\0") if name]


def build(root: Path, python: Path, folder: Path) -> Built:
    """Build from a clean copy of the commit in ``root``; ``python`` has the package ``build``.

    What is not committed is not in it. Raises ``MfenvError`` with the end of what was printed.
    """
    source, out = folder / "source", folder / "dist"
    source.mkdir(parents=True)
    archive = folder / "source.tar"
    archive.write_bytes(_git(root, "archive", "HEAD"))
    with tarfile.open(archive) as tar:
        tar.extractall(source, filter="data")
    argv = [str(python), "-m", "build", "--outdir", str(out), str(source)]
    result = subprocess.run(argv, capture_output=True, text=True)
    if result.returncode:
        raise MfenvError("the build failed: " + " ".join(result.stderr.split()[-60:]))
    return Built(next(out.glob("*.whl")), next(out.glob("*.tar.gz")))


def inspect(built: Built, names: list[str]) -> list[tuple[str, bool, str]]:
    """What the two files hold: (what was looked at, whether it is so, the figures).

    ``names`` are the files of the commit.
    """
    with zipfile.ZipFile(built.wheel) as wheel:
        sizes = {i.filename: i.file_size for i in wheel.infolist() if not i.is_dir()}
    with tarfile.open(built.sdist) as sdist:
        inside = {m.name.partition("/")[2] for m in sdist.getmembers() if m.isfile()}
    weights = sum(n for name, n in sizes.items() if name.startswith("agents/weights/"))
    wanted = {n for n in names if _in_wheel(n)}
    more = sorted(n for n in sizes if n not in wanted and ".dist-info/" not in n)
    lacking = sorted(wanted - set(sizes))
    left_out = sorted(n for n in names if _in_sdist(n) and n not in inside)
    private = sorted(n for n in inside | set(sizes) if _private(n))
    return [
        ("the wheel has every module and all package data", not lacking, _listed(lacking)),
        ("the wheel has nothing else", not more, _listed(more)),
        (
            f"weights of at most {MAX_WEIGHTS / 1e6:.0f} MB",
            weights <= MAX_WEIGHTS,
            f"{weights / 1e6:.1f} MB unpacked; wheel {built.wheel.stat().st_size / 1e6:.1f} MB, "
            f"sdist {built.sdist.stat().st_size / 1e6:.1f} MB",
        ),
        ("the sdist has code, tests, documentation, tables", not left_out, _listed(left_out)),
        ("no runs, and no texts or journals of entries", not private, _listed(private)),
    ]


def _in_wheel(name: str) -> bool:
    path = PurePosixPath(name)
    if path.parts[0] not in _PACKAGES or path.is_relative_to(_ENTRIES):
        return False
    tables = path.is_relative_to("benchmarks/results") and path.suffix in _TABLES
    return not tables


def _in_sdist(name: str) -> bool:
    path = PurePosixPath(name)
    of_entry = path.is_relative_to(_ENTRIES) and path.suffix == ".jsonl"
    return name not in _LEFT_OUT and not of_entry


def _private(name: str) -> bool:
    path = PurePosixPath(name)
    texts = path.is_relative_to(_ENTRIES) and path.suffix == ".jsonl"
    local = path.parts[0] in ("runs", "site")
    return local or texts or any(p.endswith(".private") for p in path.parts)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _git(root: Path, *argv: str) -> bytes:
    try:
        return subprocess.run(["git", *argv], cwd=root, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise MfenvError(f"{root}: not a checkout with git ({error})") from error
