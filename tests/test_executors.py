"""Workers change no byte: local pools, Ray, URLs, and what a kill leaves behind."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import executor_tasks as tasks
import psutil
import pytest
import toy_models

import mfenv.dynamics.journal as journal_module
from benchmarks.executors import Shared, run_tasks, shared_lock
from benchmarks.executors.local import LocalExecutor
from benchmarks.fidelity.cases import Case
from benchmarks.fidelity.conditions import Condition
from benchmarks.fidelity.measure import Plan, blocks
from mfenv.cli import main
from mfenv.dynamics.journal import Journal, RunLock
from mfenv.errors import MfenvError
from mfenv.events.jsonl import write_jsonl
from mfenv.events.synthetic.generator import SyntheticSociety

ROOT = Path(__file__).parent.parent
GRID = (
    "--events", "3", "--min-posts", "50", "--warmup", "16", "--horizon", "24", "--batch", "8",
    "--seeds", "2", "--methods", "toy,toy-deaf,toy+cal,toy+cal+candidates=2",
    "--baseline", "toy-deaf", "--annotator", "toy-exact",
)  # fmt: skip
TASKS = 4 + 1  # the methods, and the likelihoods


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The toy models for this process and for all that it starts."""
    folder = tmp_path_factory.mktemp("site")
    added = toy_models.install(folder)
    added["PYTHONPATH"] += f":{ROOT}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in added.items():
            patch.setenv(name, value)
        for path in reversed(added["PYTHONPATH"].split(":")):
            patch.syspath_prepend(path)
        toy_models.check(folder)
        yield {**os.environ}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "events.jsonl"
    write_jsonl(SyntheticSociety(3).events(4, n_posts=50), path)
    return path


def grid(data, folder, *more, backbone="toy"):
    return [
        "bench", "fidelity", "--track", "weibo", "--data", str(data), *GRID,
        "--backbone", backbone, "--run", str(folder), *map(str, more),
    ]  # fmt: skip


def kept(folder: Path) -> dict[str, bytes]:
    """What is measured: journals, likelihoods, scores; not the timings nor the command."""
    paths = [*folder.glob("journals/*/*"), *folder.glob("likelihoods/*/*.json")]
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}
    found["scores"] = (folder / "entry" / "scores.json").read_bytes()
    return {name: data for name, data in found.items() if ".timings." not in name}


@pytest.fixture(scope="module")
def alone(environment, data, tmp_path_factory):
    """The grid in one process, as without any executor."""
    folder = tmp_path_factory.mktemp("alone")
    assert main(grid(data, folder)) == 0
    found = kept(folder)
    assert len(found) == 4 * 3 * 2 + 2
    return found


@pytest.fixture(scope="module")
def head(environment, tmp_path_factory):
    """One Ray cluster for all tests, as anybody would start it; (process, address, variables)."""
    pytest.importorskip("ray")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = environment | token
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
             "--port", str(port), "--num-cpus", "2",
             "--include-dashboard", "false", "--object-store-memory", str(2**27),
             # What is only for large clusters takes longer to start than the rest.
             "--no-monitor", "--include-log-monitor", "false", "--disable-usage-stats"],
            env=environment, stdout=out, stderr=subprocess.STDOUT,
            process_group=0,  # Ray ends its whole group
        )  # fmt: skip
    try:
        until(lambda: b"will now block" in log.read_bytes(), process, 300)
        yield process, f"127.0.0.1:{port}", environment
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def on_cluster(head):
    """Runs a command that connects to the cluster by itself; (exit status, what it said)."""

    def run(argv, **more):
        done = subprocess.run(
            [sys.executable, "-m", "mfenv", *argv],
            env=head[2] | {"RAY_ADDRESS": head[1]} | more,
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, done.stderr

    return run


# -- the same bytes ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(workers, alone, data, tmp_path, capsys):
    assert main(grid(data, tmp_path, "--workers", workers)) == 0
    assert kept(tmp_path) == alone
    said = capsys.readouterr().err
    assert f"{TASKS} of {TASKS} tasks" in said
    assert re.search(r"1 of \d tasks, [\d,]+ decisions/s, about \d+ \w+ left", said)
    # Nothing is left to do, so nobody is asked to do it.
    assert main(grid(data, tmp_path, "--workers", workers)) == 0
    assert "tasks" not in capsys.readouterr().err
    assert kept(tmp_path) == alone


def test_ray_gives_the_same_bytes(alone, on_cluster, data, tmp_path):
    code, said = on_cluster(grid(data, tmp_path, "--executor", "ray", "--workers", 2))
    assert code == 0, said
    assert kept(tmp_path) == alone
    assert f"{TASKS} of {TASKS} tasks" in said


def test_planners_have_the_same_outcomes_anywhere(on_cluster, tmp_path):
    def played(name, *more):
        argv = [
            "bench", "intervention", "--horizon", "4", "--limit-events", "4", "--seeds", "2",
            "--lanes", "3", "--planner", "random", "--planner", "paper:1",
            "--out", str(tmp_path / name), "--results", str(tmp_path / f"{name}-results"), *more,
        ]  # fmt: skip
        code, said = on_cluster(argv)
        assert code == 0, said
        parts = {p.name: p.read_bytes() for p in (tmp_path / name / "parts").iterdir()}
        result = json.loads((tmp_path / f"{name}-results/intervention-society.json").read_text())
        return parts, {k: v for k, v in result.items() if k != "command"}

    first = played("one")
    assert len(first[0]) == 3 * 3
    assert played("two", "--workers", "2") == first
    assert played("ray", "--executor", "ray", "--workers", "2") == first


def test_a_planner_that_is_trained_on_a_cluster_is_the_same(on_cluster, tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text("default: {n_envs: 8, n_steps: 4, batch_size: 16, n_epochs: 1}")
    argv = ["train", "planner", "--horizon", "4", "--timesteps", "64", "--episodes", "8",
            "--config", str(config)]  # fmt: skip
    assert main([*argv, "--out", str(tmp_path / "here")]) == 0
    more = ("--executor", "ray", "--workers", "2")
    code, said = on_cluster([*argv, *more, "--out", str(tmp_path / "ray")])
    assert code == 0, said
    made = [tmp_path / name / "planner" / "planner.safetensors" for name in ("here", "ray")]
    assert made[0].read_bytes() == made[1].read_bytes()


def simulated(data, folder, *more):
    argv = ["simulate", str(data), "--backbone", "toy", "--annotator", "toy-exact",
            "--method", "toy", "--agents", "40", "--batch", "8", "--warmup", "16",
            "--seeds", "2", "--out", str(folder), "--json", *map(str, more)]  # fmt: skip
    assert main(argv) == 0
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".timings." not in p.name
    }


def test_many_events_are_those_of_one_after_the_other(environment, data, tmp_path, capsys):
    whole = simulated(data, tmp_path / "one", "--all-events")
    summary = json.loads(capsys.readouterr().out)
    assert summary["events"] == len(summary["per_event"]) == 4
    assert simulated(data, tmp_path / "two", "--all-events", "--workers", 2) == whole
    capsys.readouterr()
    # One event alone has the same journals and the same result.
    single = simulated(data, tmp_path / "single", "--event", "synthetic-3-2")
    alone = json.loads(capsys.readouterr().out)
    [folder] = [f for f, r in summary["per_event"].items() if r["event"] == "synthetic-3-2"]
    assert single == {
        name.removeprefix(f"{folder}/"): text
        for name, text in whole.items()
        if name.startswith(f"{folder}/")
    }
    assert summary["per_event"][folder]["kl"] == alone["kl"]
    means = [r["kl"]["toy"]["mean"] for r in summary["per_event"].values()]
    assert summary["kl"]["toy"]["mean"] == pytest.approx(sum(means) / 4, abs=2e-6)
    assert summary["kl"]["toy"]["low"] < summary["kl"]["toy"]["mean"]
    some = ("--event", "synthetic-3-2", "--event", "synthetic-3-1")
    simulated(data, tmp_path / "some", *some)
    few = json.loads(capsys.readouterr().out)
    assert {r["event"] for r in few["per_event"].values()} == {"synthetic-3-2", "synthetic-3-1"}


def test_a_language_model_writes_the_same_in_any_process(environment, tmp_path):
    pytest.importorskip("torch")
    found = []
    for name, more in (("one", ()), ("two", ("--workers", "2"))):
        folder = tmp_path / name
        argv = ["simulate", "--event", "synthetic-9-0", "--event", "synthetic-9-1", "--backbone",
                "embedded-en-xs", "--method", "mf", "--agents", "32", "--warmup", "16", "--seeds",
                "1", "--out", str(folder), "--json", *more]  # fmt: skip
        assert main(argv) == 0
        paths = sorted(folder.glob("*/journals/mf-0.jsonl"))
        found.append([p.read_bytes() for p in paths])
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_blocks_are_cut_by_what_is_asked_for_alone():
    cases = [Case(f"event {i}", None) for i in range(30)]
    models = {case.group: dict.fromkeys(("mf", "state")) for case in cases}
    condition = Condition("core", ("mf", "state"))
    plan = Plan(condition, cases, models, None, range(5), {}, Path("runs"))
    found = blocks(plan)
    # 150 runs a method: three blocks of ten cases, none with more than 64 runs.
    assert [len(block) for block in found] == [50] * 6
    assert all(len({task.method for task in block}) == 1 for block in found)
    every = [(task.case, task.method, task.seed) for block in found for task in block]
    assert len(every) == len(set(every)) == 30 * 2 * 5
    # A method has the same blocks whichever others are asked for.
    fewer = replace(plan, models={group: {"mf": None} for group in models})
    assert blocks(fewer) == found[:3]


# -- kills -------------------------------------------------------------------------------------


def lines_in(folder: Path) -> int:
    paths = [p for p in folder.glob("journals/*/*.jsonl") if ".timings." not in p.name]
    return sum(p.read_bytes().count(b"\n") for p in paths)


def until(condition, process=None, seconds=120.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "ended too early"
        assert time.monotonic() < limit
        time.sleep(0.02)


def workers_of(pid: int, word: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if word in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def killed_twice(argv, folder, environment, workers):
    """Kill a worker with work in hand, then the driver; returns what the driver's workers were."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "mfenv", *argv],
        env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(lambda: lines_in(folder) > 20, driver)
        first = workers(driver.pid)
        first[0].kill()
        begun = lines_in(folder)
        until(lambda: lines_in(folder) > begun + 20, driver)
        with pytest.raises(MfenvError, match=rf"pid {driver.pid}, started 20"), RunLock(folder):
            pass
        left = workers(driver.pid)
    finally:
        driver.kill()
        said = driver.communicate()[1]
    assert not (folder / "entry").exists()
    return said, left


def test_a_killed_worker_and_then_a_killed_driver_change_nothing(
    environment, alone, data, tmp_path
):
    argv = grid(data, tmp_path, "--workers", 2, backbone="toy:1")
    said, left = killed_twice(
        argv, tmp_path, environment, lambda pid: workers_of(pid, "spawn_main")
    )
    assert "is begun again: its worker died (exit code -9)" in said
    # Workers do not outlive their driver: nobody writes where the next run goes on.
    until(lambda: not any(p.is_running() and p.status() != "zombie" for p in left))
    assert main(grid(data, tmp_path, "--workers", 2)) == 0
    assert kept(tmp_path) == alone


def test_a_killed_ray_worker_and_driver_change_nothing(alone, head, on_cluster, data, tmp_path):
    more = ("--executor", "ray", "--workers", 2, "--ray-address", head[1])
    argv = grid(data, tmp_path, *more, backbone="toy:1")
    killed_twice(argv, tmp_path, head[2], lambda _: workers_of(head[0].pid, "ray::perform"))
    code, said = on_cluster(grid(data, tmp_path, *more))
    assert code == 0, said
    assert kept(tmp_path) == alone


# -- failures ----------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced_and_its_task_begun_again(tmp_path):
    names = ["a", "b"]
    todo = [tasks.task(tasks.die_once, n, tmp_path, argument=n) for n in names]
    said = []
    with LocalExecutor(2, 1) as executor:
        run_tasks(todo, executor, said.append)
    assert [(tmp_path / f"{n}.attempts").read_text() for n in names] == ["xxx"] * 2
    assert sum("begun again" in text for text in said) == 4


@pytest.mark.parametrize(
    ("play", "tries", "words"),
    [
        (tasks.always_dies, None, ["core, mf failed 3 times", "its worker died", "same command"]),
        (tasks.no_server, 3, ["core, mf failed 3 times", "nobody answers"]),
        (tasks.bug, None, ["core, mf failed 3 times", "ZeroDivisionError: oh (executor_tasks.py"]),
        (tasks.bad_data, 1, ["core, mf: line 3 is malformed"]),
    ],
)
def test_a_task_that_cannot_be_done_is_named(play, tries, words, tmp_path):
    others = [tasks.task(tasks.write, f"other {i}", tmp_path, 0.1, i) for i in range(2)]
    with LocalExecutor(2, 1) as executor, pytest.raises(MfenvError) as error:
        run_tasks([tasks.task(play, "core, mf", tmp_path), *others], executor, lambda text: None)
    assert all(word in str(error.value) for word in words), error.value
    if tries is not None:
        assert (tmp_path / "tries").read_text() == "x" * tries


def test_the_costliest_task_goes_first(tmp_path):
    costs = {"a": 3.0, "b": 10.0, "c": 1.0, "d": 10.0}
    todo = [tasks.task(tasks.write, n, tmp_path, c, n) for n, c in costs.items()]
    with LocalExecutor(1, 1) as executor:
        run_tasks(todo, executor, lambda text: None)
    assert (tmp_path / "log").read_text().split() == ["b", "d", "a", "c"]


def test_leaving_an_executor_ends_what_still_runs(tmp_path):
    todo = [tasks.task(tasks.sleep, "long", tmp_path, argument=600.0)]
    with LocalExecutor(2, 1) as executor:
        executor.start(todo[0])
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--executor", "slurm"], ["'slurm'", "local, ray"]),
        (["--workers", "0"], ["--workers", "at least 1"]),
        (["--ray-address", "x:1"], ["--ray-address is for --executor ray"]),
        (["--worker-gpus", "1"], ["--worker-gpus is for --executor ray"]),
        (["--shared", "/mnt/x"], ["--shared", "s3://"]),
        (["--shared", "ham://x"], ["ham"]),
        (["--shared", "memory://x", "--workers", "2"], ["memory://", "--workers 1"]),
    ],
)
def test_wrong_arguments_get_one_line(more, words, environment, data, tmp_path, capsys):
    assert main(grid(data, tmp_path / "run", *more)) == 2
    said = capsys.readouterr().err
    assert said.startswith("mfenv: error: ")
    assert said.count("\n") == 1
    assert all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--threads", "64"], "has 2 CPUs and a task needs 64"),
        (["--threads", "1", "--worker-gpus", "1"], "has 0 GPUs and a task needs 1"),
    ],
)
def test_a_task_that_no_machine_has_room_for_is_said(more, words, on_cluster, data, tmp_path):
    code, said = on_cluster(grid(data, tmp_path, "--executor", "ray", *more))
    assert code == 2
    assert words in said


def test_a_cluster_that_wants_a_token_is_said(head, on_cluster, data, tmp_path):
    argv = grid(data, tmp_path, "--executor", "ray")
    code, said = on_cluster(argv, RAY_AUTH_MODE="disabled")
    assert code == 2
    last = said.splitlines()[-1]  # Ray says something of each attempt
    assert last.startswith(f"mfenv: error: no Ray cluster at {head[1]}: ")
    assert "RAY_AUTH_MODE=token" in last


# -- files at a URL ------------------------------------------------------------------------------


def test_journals_at_a_file_url_are_gone_on_with(alone, data, tmp_path):
    url = (tmp_path / "shared").as_uri()
    assert main(grid(data, tmp_path / "a", "--workers", 2, "--shared", url)) == 0
    assert kept(tmp_path / "a") == alone
    # Another machine's driver: its own folder is empty, and a journal at the URL is torn.
    path = sorted((tmp_path / "shared").glob("journals/*/*-toy+cal-1.jsonl"))[0]
    path.write_bytes(path.read_bytes()[:-500])
    assert main(grid(data, tmp_path / "b", "--workers", 2, "--shared", url)) == 0
    assert kept(tmp_path / "b") == alone
    assert not (tmp_path / "shared" / "run.lock").exists()


def test_journals_in_an_object_store_without_files(alone, data, tmp_path, capsys):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    url = f"memory://runs/{tmp_path.name}"
    try:
        assert main(grid(data, tmp_path / "a", "--shared", url)) == 0
        assert kept(tmp_path / "a") == alone
        found = store.find(f"/runs/{tmp_path.name}")
        for path in found:
            if "toy-deaf" in path:
                store.rm_file(path)
        capsys.readouterr()
        assert main(grid(data, tmp_path / "b", "--shared", url)) == 0
        assert "1 of 1 tasks" in capsys.readouterr().err
        assert kept(tmp_path / "b") == alone
        assert store.find(f"/runs/{tmp_path.name}") == found
    finally:
        store.rm("/runs", recursive=True)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_two_runs_at_one_url(kind, tmp_path):
    url = tmp_path.as_uri() if kind == "file" else f"memory://locks/{tmp_path.name}"
    shared = Shared(url)
    who = rf"pid {os.getpid()}, started 20\d\d-.*, on {re.escape(socket.gethostname())}"
    with shared_lock(url):
        with pytest.raises(MfenvError, match=who), shared_lock(url):
            pass
        assert shared.read("run.lock") is not None  # the one that was refused leaves it alone
    assert shared.read("run.lock") is None
    # Of a process of this machine that is dead: taken over. Of another machine: believed.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    note = f"pid {gone.pid}, started 2020-01-01T00:00:00+00:00, on "
    shared.write("run.lock", note + socket.gethostname())
    with shared_lock(url):
        pass
    shared.write("run.lock", note + "elsewhere")
    with pytest.raises(MfenvError, match=r"on elsewhere.*delete .*run\.lock"), shared_lock(url):
        pass
    shared.remove("run.lock")


# -- one writer ----------------------------------------------------------------------------------


def test_a_journal_has_one_writer(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "_PATIENCE", 0.2)
    path = tmp_path / "0.jsonl"
    code = (
        "import sys, time\nfrom mfenv.dynamics.journal import Journal\n"
        f"journal = Journal({str(path)!r}, {{'seed': 1}})\nprint('open', flush=True)\n"
        "time.sleep(600)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "open\n"
        before = path.read_bytes()
        with pytest.raises(MfenvError, match=r"0\.jsonl: another process writes this journal"):
            Journal(path, {"seed": 1})
        assert path.read_bytes() == before
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    with Journal(path, {"seed": 1}) as journal:  # the lock died with its owner
        assert len(journal.records) == 0
    assert path.read_bytes() == before
