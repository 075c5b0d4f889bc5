"""The SLURM cluster in containers, as tests use it: started once, looked at over SSH, disturbed through Docker.

It knows `slurm-docker-cluster/cluster` and what that writes, and nothing of the gateway.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "slurm-docker-cluster"
SCRIPT = FOLDER / "cluster"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")


class CommandFailed(AssertionError):
    """A command on the cluster ended with another code than 0."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up. Times are in seconds.

    Attributes:
        port: of the login node's sshd, on loopback.
        key_file, known_hosts, ssh_config: what a client needs; the user is `divbase`.
        project: the name by which compose knows the containers.
    """

    port: int
    key_file: Path
    known_hosts: Path
    ssh_config: Path
    project: str
    host: str = "127.0.0.1"
    user: str = "divbase"

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
        label = "label=com.docker.compose"
        argv = ["docker", "ps", "--all", "--quiet", "--filter", f"{label}.project={self.project}"]
        listed = subprocess.run(
            [*argv, "--filter", f"{label}.service={service}"], capture_output=True, text=True, check=True
        )
        return listed.stdout.split()[0]

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
            except CommandFailed:
                assert time.monotonic() < deadline, f"{service} is not healthy after {patience_s:.0f} s"
            time.sleep(0.2)

    def sacct(self, job_id: str, *fields: str) -> list[str]:
        """These fields of a job's own line in the accounting; empty while there is no such line."""
        command = ["sacct", "-X", "--noheader", "--parsable2", "--starttime=now-1hour"]
        lines = self.run(*command, f"--jobs={job_id}", f"--format={','.join(fields)}").splitlines()
        return lines[0].split("|") if lines else []

    def wait_end(self, job_id: str, patience_s: float = 60.0) -> str:
        """Until accounting has an end for the job; returns SLURM's word for it."""
        deadline = time.monotonic() + patience_s
        while not (state := self.sacct(job_id, "State")) or state[0].split()[0] not in ENDED:
            assert time.monotonic() < deadline, f"job {job_id} has not ended: {state}"
            time.sleep(0.3)
        return state[0]


def _output(answer: subprocess.CompletedProcess[str]) -> str:
    if answer.returncode:
        raise CommandFailed(f"{answer.args} ended with {answer.returncode}: {answer.stderr.strip() or answer.stdout}")
    return answer.stdout


# --- starting and stopping ---------------------------------------------------------------------------------------


def why_not() -> str | None:
    """Why no cluster can be started here, or None."""
    answer = subprocess.run(["bash", "-c", "command -v docker ssh"], capture_output=True, text=True, check=False)
    if answer.returncode:
        return "docker or ssh is not installed"
    engine = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False, timeout=30)
    if engine.returncode:
        return "no Docker Engine answers"
    return None


def skip_where_impossible(items: Sequence[pytest.Item]) -> None:
    """Skip every test of the cluster with the same loud words, which pytest then prints once for each file."""
    ours = [item for item in items if item.get_closest_marker("cluster")]
    if ours and not _required() and (reason := why_not()) is not None:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=_words(reason)))


def _required() -> bool:
    return os.environ.get("DIVBASE_REQUIRE_CLUSTER") == "1"


def _words(reason: str) -> str:
    return f"CLUSTER TESTS NOT RUN: {reason}; `slurm-docker-cluster/cluster install` as root installs what is missing"


def start() -> Cluster:
    """Bring the cluster up, which takes seconds if it is up already."""
    answer = subprocess.run([str(SCRIPT), "up"], capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.fail(f"the cluster did not start: {answer.stderr[-3000:]}", pytrace=False)
    return connect()


def connect() -> Cluster:
    """The cluster that is up.

    Raises:
        FileNotFoundError: none is.
    """
    run = FOLDER / "run"
    settings = dict(line.split(None, 1) for line in (run / "ssh_config").read_text().splitlines())
    project = (run / "project").read_text().strip()
    return Cluster(int(settings["Port"]), run / "id_ed25519", run / "known_hosts", run / "ssh_config", project)


def is_up() -> bool:
    return (FOLDER / "run" / "ssh_config").exists()


@contextmanager
def shared_cluster(folder: Path) -> Iterator[Cluster]:
    """The cluster, for one of several test processes that have `folder` in common: the first starts it, the last stops
    it unless it was up before or DIVBASE_KEEP_CLUSTER=1."""
    users, ours = folder / "cluster-users", folder / "cluster-is-ours"
    with _locked(folder / "cluster-lock"):
        if not is_up():
            ours.touch()
        cluster = start()
        _count(users, +1)
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
    """A SLURM cluster in containers that all tests share; give jobs names of your own."""
    if (reason := why_not()) is not None:
        pytest.fail(_words(reason), pytrace=False)
    folder = tmp_path_factory.getbasetemp()
    with shared_cluster(folder if worker_id == "master" else folder.parent) as shared:
        yield shared
