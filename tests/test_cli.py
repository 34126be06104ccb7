"""The command line as a person meets it: a process, its exit code and its lines."""

import os
import signal
import subprocess
import sys
import time

import pytest

import mfenv

# A distribution of somebody else's with three commands: one that works, one that needs torch at
# import, one that needs it only when it runs.
PLUGIN = {
    "theirs-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n",
    "theirs-1.0.dist-info/entry_points.txt": (
        "[mfenv.commands]\ngreet = theirs_greet\nheavy = theirs_heavy\nlate = theirs_late\n"
    ),
    "theirs_greet.py": (
        "import sys, time\n"
        "from mfenv.cli import integer\n"
        "from mfenv.errors import DataError\n"
        "HELP = 'greet\\n  people'\n"
        "def add_arguments(parser):\n"
        "    parser.add_argument('--times', type=integer(1, 3), default=1)\n"
        "    parser.add_argument('--read')\n"
        "    parser.add_argument('--wait', action='store_true')\n"
        "    parser.add_argument('--bad', action='store_true')\n"
        "def run(args):\n"
        "    if args.bad:\n"
        "        raise DataError('f.json', '3', 'text', 'is missing;\\nallowed: a string')\n"
        "    if args.read:\n"
        "        open(args.read)\n"
        "    if args.wait:\n"
        "        print('waiting', flush=True)\n"
        "        time.sleep(60)\n"
        "    print('hello ' * args.times * 20000 if args.times == 3 else 'hello')\n"
        "    return 7 if args.times == 2 else 0\n"
    ),
    "theirs_heavy.py": "import torch\nHELP = 'heavy'\n",
    "theirs_late.py": (
        "HELP = 'late'\n"
        "def add_arguments(parser): pass\n"
        "def run(args):\n    import torch\n    return 0\n"
    ),
    # What a machine without the extra does: torch cannot be found.
    "sitecustomize.py": (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
        "sys.meta_path.insert(0, Absent())\n"
    ),
}


@pytest.fixture
def plugin(tmp_path):
    for name, text in PLUGIN.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "site")}


def call(*argv, env=None):
    return subprocess.run(
        [sys.executable, "-m", "mfenv", *argv], capture_output=True, text=True, env=env, timeout=60
    )


def complaint(result):
    """The single line of a failed call, which must not be a traceback."""
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("mfenv: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_version_and_overview(plugin):
    assert call("--version").stdout == f"mfenv {mfenv.__version__}\n"
    result = call("--help", env=plugin)
    assert result.returncode == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert {"data", "envs", "simulate", "train", "greet", "heavy", "late"} <= set(lines)
    assert lines["greet"].endswith("greet people")
    assert "pip install 'mfenv[llm]'" in lines["heavy"]


def test_wrong_commands_and_arguments_get_one_line_that_says_what_is_allowed(plugin):
    line = complaint(call("simulat", env=plugin))
    assert "'simulat'" in line
    assert all(name in line for name in ("data", "envs", "simulate", "train", "greet"))
    assert "--version" in complaint(call("--verison"))
    assert "1 to 3" in complaint(call("greet", "--times", "4", env=plugin))
    assert "1 to 3" in complaint(call("greet", "--times", "many", env=plugin))
    line = complaint(call("greet", "--tims", "1", env=plugin))
    assert "--tims" in line
    assert "--times" in line
    assert "'annotator', 'backbone'" in complaint(call("train", "everything"))


def test_errors_that_a_person_can_put_right_are_one_line(plugin):
    line = complaint(call("greet", "--bad", env=plugin))
    assert "f.json: record 3: field text: is missing; allowed: a string" in line
    assert "no-such-file" in complaint(call("greet", "--read", "no-such-file", env=plugin))


@pytest.mark.parametrize("command", ["heavy", "late"])
def test_a_missing_extra_is_the_pip_command(plugin, command):
    assert "pip install 'mfenv[llm]'" in complaint(call(command, env=plugin))


def test_exit_codes_pass_through(plugin):
    assert call("greet", "--times", "2", env=plugin).returncode == 7


def test_interrupt_says_how_to_go_on(plugin):
    process = subprocess.Popen(
        [sys.executable, "-m", "mfenv", "greet", "--wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=plugin,
        # A job in the background of a script would inherit that this signal is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.count("\n") == 1
    assert "mfenv greet --wait" in stderr


def test_a_reader_that_leaves_is_no_error(plugin):
    process = subprocess.Popen(
        [sys.executable, "-m", "mfenv", "greet", "--times", "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=plugin,
    )
    process.stdout.read(5)
    process.stdout.close()
    time.sleep(0.1)
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 141


def test_only_the_chosen_command_is_imported():
    code = (
        "import sys; from mfenv.cli import main; assert main(['data', '--help']) == 0; "
        "heavy = {'torch', 'transformers', 'benchmarks', 'training', 'agents'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_foreign_package_called_agents_is_named_with_the_way_out(tmp_path):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("")
    code = "from mfenv import plugins; plugins.load('mfenv.methods', 'mf')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    last = result.stderr.strip().splitlines()[-1]
    assert "ShadowedPackageError" in last
    assert str(tmp_path) in last
    assert "Rename or move it" in last
    assert "virtual environment" in last
