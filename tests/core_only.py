"""A folder in which only the core is installed: mfenv, what it asks for without extras, no more.

The packages are links to those of this environment, so making one takes no time; Python is started
without its own site-packages. What is not linked is absent, its metadata too, as for a person who
installed ``mfenv`` without an extra.
"""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OURS = ("mfenv", "agents", "training", "benchmarks")


def closure(names):
    """The distributions that these ask for without extras, and so on, by their canonical names."""
    found, waiting = {}, list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        for requirement in map(Requirement, found[name].requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def core_requirements():
    ours = map(Requirement, metadata.requires("mfenv"))
    return [r.name for r in ours if r.marker is None or r.marker.evaluate({"extra": ""})]


def install(folder):
    """Install the core into a folder that does not exist yet."""
    folder.mkdir()
    for dist in closure(core_requirements()).values():
        for top in {file.parts[0] for file in dist.files}:
            if top not in ("..", "__pycache__"):
                (folder / top).symlink_to(dist.locate_file(top))
    for package in OURS:
        (folder / package).symlink_to(ROOT / package)
    ours = metadata.distribution("mfenv")
    info = folder / f"mfenv-{ours.version}.dist-info"
    info.mkdir()
    lines = [f"Requires-Dist: {text}" for text in ours.requires]
    lines += [f"Provides-Extra: {name}" for name in ours.metadata.get_all("Provides-Extra")]
    head = ["Metadata-Version: 2.1", "Name: mfenv", f"Version: {ours.version}"]
    (info / "METADATA").write_text("\n".join([*head, *lines, ""]))
    (info / "entry_points.txt").write_text(ours.read_text("entry_points.txt"))
    return folder


def python(folder, *argv, also=(), environ=(), timeout=120):
    """Run Python with the packages of these folders, and only them."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MFENV_", "OPENAI_"))}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, [folder, *also])), **dict(environ)}
    return subprocess.run(
        [sys.executable, "-S", *argv],
        capture_output=True,
        text=True,
        env=env,
        cwd=folder.parent,
        timeout=timeout,
    )


CALLS = """
import contextlib, io, json, sys
from mfenv.cli import main
results = []
for argv in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        results.append((main(argv), out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


def calls(folder, *argvs, **options):
    """Exit code, stdout and stderr of several ``mfenv`` commands, in one process."""
    result = python(folder, "-c", CALLS, json.dumps(argvs), **options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
