"""The gateway's end of the pyslurm process, with programs in place of the worker that hang, die or speak nonsense."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from divbase_gateway.slurm.pyslurm_process import WORKER, AnsweredWithError, PyslurmProcess, worker_command
from divbase_gateway.slurm.runners import RunnerUnavailable

pytestmark = pytest.mark.slow  # real programs

LIMIT_S = 10.0

WORKER_LIKE = """
import json, os, signal, subprocess, sys, time
def say(**words): print(json.dumps(words), flush=True)
say(id=0, result={"pyslurm": "1"})
for line in sys.stdin:
    request = json.loads(line)
    number, method, params = request["id"], request["method"], request["params"]
    if method == "echo": say(id=number, result=params)
    if method == "pid": say(id=number, result=os.getpid())
    if method == "refuse":
        sys.stderr.write("error: of another request\\n")
        say(id=number, error={"kind": "slurm", "words": "no"})
    if method == "hang": time.sleep(60)
    if method == "child":
        child = subprocess.Popen(["sleep", "60"])
        open(params["file"], "w").write(str(child.pid))
        time.sleep(60)
    if method == "rave":
        while True: sys.stderr.write("error: retrying\\n" * 100)
    if method == "die": sys.stderr.write("fatal: all is lost\\n"); sys.exit(1)
    if method == "babble": print("Last login: yesterday", flush=True)
    if method == "late": say(id=number - 1, result=None)
    if method == "half": os.write(1, b'{"id": '); os._exit(0)
"""


def process_of(text: str, *, first_pause_s: float = 0.05, start_s: float = LIMIT_S) -> PyslurmProcess:
    return PyslurmProcess([sys.executable, "-IS", "-c", text], {}, start_s=start_s, first_pause_s=first_pause_s)


@pytest.fixture
def process() -> PyslurmProcess:
    return process_of(WORKER_LIKE)


def fault_of(process: PyslurmProcess, method: str, limit_s: float = LIMIT_S, **params: str) -> RunnerUnavailable:
    with pytest.raises(RunnerUnavailable) as caught:
        process.ask(method, params, limit_s)
    return caught.value


def pid_of(process: PyslurmProcess) -> int:
    """Of the worker, of a new one too where the last one was given up."""
    time.sleep(0.06)
    pid = process.ask("pid", {}, LIMIT_S)
    assert isinstance(pid, int)
    return pid


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_one_process_answers_many_requests(process: PyslurmProcess) -> None:
    """Loading pyslurm is paid for once."""
    first = pid_of(process)
    assert process.ask("echo", {"a": "ö"}, LIMIT_S) == {"a": "ö"}
    assert pid_of(process) == first
    process.close()
    assert gone(first)


def test_error_is_an_answer(process: PyslurmProcess) -> None:
    """The process goes on."""
    before = pid_of(process)
    with pytest.raises(AnsweredWithError, match="no") as caught:
        process.ask("refuse", {}, LIMIT_S)
    assert (caught.value.kind, pid_of(process)) == ("slurm", before)
    process.close()


def test_large_request_and_answer_arrive_whole(process: PyslurmProcess) -> None:
    """Larger than any pipe."""
    ids = [str(number) for number in range(200_000)]
    assert process.ask("echo", {"ids": ids}, LIMIT_S) == {"ids": ids}
    process.close()


def test_process_that_hangs_is_killed_within_the_limit(process: PyslurmProcess) -> None:
    """And the next request has a new one."""
    first = pid_of(process)
    began = time.monotonic()
    fault = fault_of(process, "hang", limit_s=0.3)
    assert time.monotonic() - began < 2
    assert "did not answer within 0.3 s when asked for hang" in fault.message
    assert fault.started
    assert gone(first)
    assert pid_of(process) != first
    process.close()


def test_process_that_only_complains_is_killed_within_the_limit(process: PyslurmProcess) -> None:
    """Words on standard error are no answer, however many."""
    pid_of(process)
    began = time.monotonic()
    fault = fault_of(process, "rave", limit_s=0.5)
    assert time.monotonic() - began < 4
    assert "error: retrying" in fault.message


def test_process_that_ended_unasked_is_replaced_at_once(process: PyslurmProcess) -> None:
    """Nobody's answer was lost, so no request fails for it."""
    first = pid_of(process)
    os.kill(first, signal.SIGKILL)
    while not gone(first):
        time.sleep(0.01)
    assert process.ask("pid", {}, LIMIT_S) != first
    process.close()


def test_what_the_process_started_ends_with_it(process: PyslurmProcess, tmp_path: Path) -> None:
    """The whole group is killed."""
    file = tmp_path / "pid"
    pid_of(process)
    fault_of(process, "child", limit_s=1.0, file=str(file))
    deadline = time.monotonic() + 5
    while not gone(int(file.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("die", "ended when asked for die: fatal: all is lost"),
        ("babble", "spoke nonsense"),
        ("late", "answered something else"),
        ("half", "ended"),
    ],
)
def test_no_answer_is_named_and_replaced(process: PyslurmProcess, method: str, words: str) -> None:
    """Whatever is no answer ends the process that gave it; the request may have been acted on."""
    first = pid_of(process)
    with pytest.raises(AnsweredWithError):
        process.ask("refuse", {}, LIMIT_S)
    fault = fault_of(process, method)
    assert words in fault.message
    assert "another request" not in fault.message
    assert fault.started
    assert pid_of(process) != first
    process.close()


def test_request_that_was_not_read_was_not_acted_on() -> None:
    """A worker acts on whole lines only."""
    process = process_of('print(\'{"id": 0, "result": {"pyslurm": "1"}}\', flush=True)\nimport time; time.sleep(60)')
    assert not fault_of(process, "echo", limit_s=0.5, text="x" * 1_000_000).started


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys; sys.exit('fatal: no slurm.conf')", "ended while it loaded pyslurm: fatal: no slurm.conf"),
        ("import time; time.sleep(60)", "did not answer within 0.5 s while it loaded pyslurm"),
        ("print('Welcome to node 7')", "spoke nonsense while it loaded pyslurm"),
    ],
)
def test_process_that_does_not_start_was_asked_nothing(text: str, words: str) -> None:
    """The hint says who does what."""
    fault = fault_of(process_of(text, start_s=0.5), "echo")
    assert words in fault.message
    assert not fault.started
    assert "scheduler.pyslurm_python" in (fault.hint or "")


def test_program_that_is_not_there_is_named() -> None:
    """The setting that names it is in the hint."""
    fault = fault_of(PyslurmProcess(["/nowhere/python"], {}), "echo")
    assert "/nowhere/python cannot be run: No such file or directory." in fault.message
    assert not fault.started


def test_python_without_pyslurm_says_so() -> None:
    """The real worker, on a Python that has none."""
    process = PyslurmProcess([sys.executable, "-IS", str(WORKER)], {})
    fault = fault_of(process, "ping")
    assert f"pyslurm cannot be loaded by {sys.executable}: No module named 'pyslurm'." in fault.message
    assert "installs pyslurm of the cluster's own SLURM release" in (fault.hint or "")


def test_pause_follows_a_fault() -> None:
    """A library that cannot be loaded is not loaded again for every request; the words stay."""
    process = process_of("import sys; sys.exit('fatal: no slurm.conf')", first_pause_s=30)
    first = fault_of(process, "echo")
    again = fault_of(process, "echo")
    assert (again.message, again.hint, again.started) == (first.message, first.hint, False)


def test_pauses_grow_until_an_answer_comes() -> None:
    """A start alone proves nothing."""
    process = process_of(WORKER_LIKE, first_pause_s=0.5)
    fault_of(process, "die")
    time.sleep(0.55)
    fault_of(process, "die")
    time.sleep(0.55)  # the second pause is 1 s
    assert not fault_of(process, "echo").started
    time.sleep(0.5)
    assert process.ask("echo", {}, LIMIT_S) == {}
    fault_of(process, "die")
    time.sleep(0.55)
    assert process.ask("echo", {}, LIMIT_S) == {}
    process.close()


def test_requests_wait_for_each_other(process: PyslurmProcess) -> None:
    """Threads get their own answers; one that waits longer than its limit was not asked."""
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(process.ask("echo", {"n": n}, LIMIT_S))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(answer) for answer in answers) == [f"{{'n': {n}}}" for n in range(8)]

    busy = threading.Thread(target=lambda: fault_of(process, "hang", limit_s=1.0))
    busy.start()
    time.sleep(0.3)
    fault = fault_of(process, "echo", limit_s=0.1)
    assert "busy" in fault.message
    assert not fault.started
    busy.join()


def test_closing_ends_a_request_under_way(process: PyslurmProcess) -> None:
    """Nobody waits for the limit of a process that is no longer wanted."""
    faults: list[RunnerUnavailable] = []
    asking = threading.Thread(target=lambda: faults.append(fault_of(process, "hang")))
    asking.start()
    time.sleep(0.5)
    process.close()
    asking.join(timeout=3)
    assert [fault.started for fault in faults] == [True]


def test_worker_runs_on_nothing_but_its_own_python() -> None:
    """Neither the working directory nor a variable decides what is imported."""
    assert worker_command("/opt/python")[:2] == ["/opt/python", "-I"]
