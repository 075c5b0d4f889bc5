"""The SLURM cluster in containers, as tests use it: started once, looked at over SSH, disturbed through Docker.

It knows `slurm-docker-cluster/cluster` and what that writes, and nothing of the gateway.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "slurm-docker-cluster"
SCRIPT = FOLDER / "cluster"
NAME = os.environ.get("CLUSTER", "divbase-cluster")
"""Of the cluster; its folder in `run/` is called so."""

START_S = 900
"""Long enough for images to be made on a slow machine."""

_NOT_RUN = "CLUSTER TESTS NOT RUN"

_CANNOT = 3
"""Exit code of `cluster` where no cluster can be had on this machine."""

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")


class CommandFailed(AssertionError):
    """A command on the cluster ended with another code than 0."""


class Unhealthy(AssertionError):
    """A machine of the cluster does not do its work in time."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up. Times are in seconds.

    Attributes:
        port: of the login node's sshd, on loopback.
        key_file, known_hosts, ssh_config: what a client needs; the user is `divbase`.
        project: the name by which compose knows the containers.
        settings_file: a divbase.toml for a gateway on this machine: SSH, S3 and PostgreSQL of the cluster.
    """

    port: int
    key_file: Path
    known_hosts: Path
    ssh_config: Path
    project: str
    settings_file: Path
    host: str = "127.0.0.1"
    user: str = "divbase"

    def settings(self) -> dict[str, dict[str, Any]]:
        """What is in `settings_file`."""
        return tomllib.loads(self.settings_file.read_text())

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run on the login node as the user divbase, whatever comes of it."""
        argv = ["ssh", "-F", str(self.ssh_config), "login", command]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    def run(self, *argv: str) -> str:
        """Run on the login node as the user divbase and return what it printed."""
        return _output(self.ssh(shlex.join(argv)))

    def admin(self, service: str, *argv: str, user: str = "root") -> str:
        """Run in the container of a service, as root unless told, and return what it printed."""
        argv = ("docker", "exec", "--user", user, self.container(service), *argv)
        return _output(subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60))

    def container(self, service: str) -> str:
        """Its id, which stays as long as the cluster is up."""
        return _container(self.project, service)

    @contextmanager
    def without(self, service: str, daemon: str) -> Iterator[None]:
        """With one daemon of a service ended, until the block ends and the service is healthy again."""
        hold, down = "/run/divbase/hold", f"pkill -x {daemon}; while pgrep -x {daemon}; do sleep 0.05; done"
        self.admin(service, "bash", "-c", f"touch {hold}; {down}")
        try:
            yield
        finally:
            self.admin(service, "rm", "-f", hold)
            self.wait_healthy(service)

    def wait_healthy(self, service: str, patience_s: float = 60.0) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self.admin(service, "role", "check")
                return
            except CommandFailed as fault:
                if time.monotonic() > deadline:
                    raise Unhealthy(f"{service} is not healthy after {patience_s:.0f} s") from fault
            time.sleep(0.2)

    def sacct(self, job_id: str, *fields: str) -> list[str]:
        """These fields of a job's own line in the accounting; empty while there is no such line."""
        command = ["sacct", "-X", "--noheader", "--parsable2", "--starttime=now-1hour"]
        lines = self.run(*command, f"--jobs={job_id}", f"--format={','.join(fields)}").splitlines()
        return lines[0].split("|") if lines else []

    def wait_start(self, job_id: str, patience_s: float = 30.0) -> None:
        """Until accounting knows that the job runs, which it is told some seconds after squeue says so."""
        deadline = time.monotonic() + patience_s
        while (seen := self.sacct(job_id, "State")) != ["RUNNING"]:
            assert time.monotonic() < deadline, f"accounting has no running job {job_id}: {seen}"
            time.sleep(0.3)

    def wait_end(self, job_id: str, patience_s: float = 60.0) -> str:
        """Until accounting has an end for the job; returns SLURM's word for it.

        When the end of a short job comes to slurmdbd before its start, the job is called `allocation` for a moment.
        """
        deadline = time.monotonic() + patience_s
        while not (seen := self.sacct(job_id, "State", "JobName")) or not (
            seen[0].split()[0] in ENDED and seen[1] != "allocation"
        ):
            assert time.monotonic() < deadline, f"job {job_id} has not ended: {seen}"
            time.sleep(0.3)
        return seen[0]


@cache
def _container(project: str, service: str) -> str:
    label = "label=com.docker.compose"
    argv = ["docker", "ps", "--all", "--quiet", "--filter", f"{label}.project={project}"]
    listed = subprocess.run(
        [*argv, "--filter", f"{label}.service={service}"], capture_output=True, text=True, check=True
    )
    return listed.stdout.split()[0]


def _output(answer: subprocess.CompletedProcess[str]) -> str:
    if answer.returncode:
        raise CommandFailed(f"{answer.args} ended with {answer.returncode}: {answer.stderr.strip() or answer.stdout}")
    return answer.stdout


# --- starting and stopping ---------------------------------------------------------------------------------------


class CannotStart(Exception):
    """No cluster can be had on this machine as it is; the message says what is missing and how to get it."""


def run_on_one_worker(items: Sequence[pytest.Item]) -> None:
    """Tests of the cluster run one after the other, on one worker of pytest-xdist: they disturb what they share."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("cluster"))


def skip_in_one_line(report: pytest.TestReport) -> None:
    """Where there is no cluster every test of it is skipped for the one reason, at one place: pytest then prints one
    line for all of them."""
    if report.skipped and isinstance(report.longrepr, tuple) and _NOT_RUN in report.longrepr[2]:
        report.longrepr = (__file__, 1, report.longrepr[2])


def start() -> Cluster:
    """Bring the cluster up, which takes seconds if it is up already; one that is being started elsewhere is waited for.

    Raises:
        CannotStart: it cannot be had on this machine.
    """
    try:
        answer = subprocess.run([str(SCRIPT), "up"], capture_output=True, text=True, check=False, timeout=START_S)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the cluster did not start within {START_S} s\n{_end_of_log()}", pytrace=False)
    if answer.returncode == _CANNOT:
        raise CannotStart(answer.stderr.strip().splitlines()[-1])
    if answer.returncode:
        pytest.fail(f"the cluster did not start: {answer.stderr[-3000:]}\n{_end_of_log()}", pytrace=False)
    return connect()


def _end_of_log() -> str:
    """Of the start beside the tests, where there was one (`make test`)."""
    log = FOLDER / "run" / f"{NAME}.log"
    return f"the end of {log}:\n{log.read_text()[-3000:]}" if log.is_file() else ""


def connect() -> Cluster:
    """The cluster that is up.

    Raises:
        FileNotFoundError: none is.
    """
    run = FOLDER / "run" / NAME
    settings = dict(line.split(None, 1) for line in (run / "ssh_config").read_text().splitlines())
    project = (run / "project").read_text().strip()
    key_file, known_hosts, ssh_config = run / "id_ed25519", run / "known_hosts", run / "ssh_config"
    return Cluster(int(settings["Port"]), key_file, known_hosts, ssh_config, project, run / "divbase.toml")


def is_up() -> bool:
    return (FOLDER / "run" / NAME / "ssh_config").exists()


@contextmanager
def shared_cluster(folder: Path) -> Iterator[Cluster]:
    """The cluster, for one at a time of the test processes that have `folder` in common; stopped again unless it was up
    before or DIVBASE_KEEP_CLUSTER=1."""
    users, ours = folder / "cluster-users", folder / "cluster-is-ours"
    with _locked(folder / "cluster-lock"):
        if not is_up():
            ours.touch()
        cluster = start()
        if _count(users, +1) > 1:
            _count(users, -1)
            pytest.fail("tests of the cluster disturb what they share: run them with --dist loadgroup", pytrace=False)
    try:
        yield cluster
    finally:
        with _locked(folder / "cluster-lock"):
            if _count(users, -1) == 0 and ours.exists() and os.environ.get("DIVBASE_KEEP_CLUSTER") != "1":
                ours.unlink()
                subprocess.run([str(SCRIPT), "down"], capture_output=True, check=True)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _count(file: Path, change: int) -> int:
    number = (int(file.read_text()) if file.exists() else 0) + change
    file.write_text(str(number))
    return number


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Cluster]:
    """A SLURM cluster in containers that all tests share; give jobs names of your own.

    Where it cannot be had, its tests are skipped with one line, or fail if DIVBASE_REQUIRE_CLUSTER=1.
    """
    folder = tmp_path_factory.getbasetemp()
    try:
        with shared_cluster(folder if worker_id == "master" else folder.parent) as shared:
            yield shared
    except CannotStart as reason:
        words = f"{_NOT_RUN}: {reason}"
        if os.environ.get("DIVBASE_REQUIRE_CLUSTER") == "1":
            pytest.fail(words, pytrace=False)
        pytest.skip(words)
