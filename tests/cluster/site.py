"""A site on the cluster, as an operator runs one: gateways as processes of their own, S3 on this machine, SLURM behind
the login node. Everything of it can be killed and started again; what it ought to do then is the tests' matter."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

import httpx
from divbase_client import Client, Retry
from divbase_client.models import JobDetail, JobState, Query
from divbase_gateway.local.seaweedfs import S3Endpoint, SeaweedServer

from tests.cluster.containers import Cluster, CommandFailed
from tests.cluster.forwarder import Forwarder
from tests.cluster.levers import Levers
from tests.e2e.stack import BIN
from tests.variants import simulate

FILE = "sparrows.vcf.gz"
COMMAND = "view -r chr1:1-500000"
QUICK = {
    "SCHEDULER__TICK_S": "1",
    "SCHEDULER__BETWEEN_LOOKS_S": "0.5",
    "SCHEDULER__QUIET_S": "3",
    "JOBS__LOST_AFTER_S": "30",
    "JOBS__RETRY_FOR_S": "20",
    "JOBS__URL_EXPIRY_S": "60",
}
PATIENCE_S = 120.0
_LOOK_EVERY_S = 0.4  # a test that looks more often takes the time of what it looks at

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found | None], what: str, patience_s: float = PATIENCE_S) -> Found:
    """Ask until `condition` gives something true, and return that."""
    until = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {patience_s:.0f} s in vain: {what}"
        time.sleep(_LOOK_EVERY_S)
    return found


@dataclass
class Replica:
    """One process of `divbase-gateway serve`, on a port of its own."""

    folder: Path
    port: int
    settings: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    page: int = 0

    @property
    def log(self) -> Path:
        return self.folder / f"gateway-{self.port}.log"

    def turn_page(self) -> None:
        """From here on `words` are those of another test."""
        self.page = self.log.stat().st_size

    @property
    def words(self) -> str:
        """What it has logged in this test."""
        with self.log.open("rb") as log:
            log.seek(self.page)
            return log.read().decode(errors="replace")

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("DIVBASE_")}
        settings = {**self.settings, "SERVER__PORT": str(self.port)}
        return own | {f"DIVBASE_{name}": value for name, value in settings.items()}

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(BIN / "divbase-gateway"), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
            )
        wait_for(self._answers, "the gateway's first answer")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the gateway ended: {self.log.read_text()[-3000:]}"
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/api/v1/health", trust_env=False).status_code == 200
        return False

    def end(self, number: signal.Signals) -> None:
        """Send it this signal and wait for its end; one that does not run is left alone."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def restart(self) -> None:
        self.kill()
        self.start()


@dataclass
class Site:
    """A site with one project, `project`, that has one file, `FILE`.

    Attributes:
        settings: DIVBASE_ variables without that prefix, over `QUICK`.
        database: its URL; None for a SQLite file in the folder.
        replicas: gateway processes, on one database.
        index_by_job: whether a job on the cluster makes the file's index; else it is uploaded with the file.
    """

    cluster: Cluster
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    database: str | None = None
    replicas: int = 1
    index_by_job: bool = False
    project: str = field(default_factory=lambda: f"f{secrets.token_hex(4)}")
    checked: set[str] = field(default_factory=set)
    """Jobs that a check has looked at, and the names of their attempts: the audit in the end does so again."""

    # --- up and down ---------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.levers = Levers(self.cluster, PurePosixPath(f"/shared/divbase/{self.project}"))
        self.levers.set_up()
        self.bridge = self.cluster.admin("c1", "getent", "hosts", "host.docker.internal").split()[0]
        self.s3_server = SeaweedServer(self.folder / "s3")
        self.s3 = self.s3_server.start()
        ports = _free_ports(self.replicas)
        self._s3_door = Forwarder(self.bridge, [int(self.s3.endpoint_url.rpartition(":")[2])])
        self._door = Forwarder(self.bridge, ports)
        for door in (self._s3_door, self._door):
            door.start()
        self.gateways = [Replica(self.folder, port, self._settings(self.s3)) for port in ports]
        self.key = self.operate("init", "--email", "admin@localhost").strip()
        for gateway in self.gateways:
            gateway.start()
        self.file = simulate(self.folder / FILE, samples=4, sites=3000, index="csi")
        self._create_project()

    def _create_project(self) -> None:
        with self.client() as client:
            client.projects.create(self.project)
            if not self.index_by_job:
                assert self.file.index is not None
                client.files.upload(self.project, self.file.index)
            client.files.upload(self.project, self.file.path)
            client.files.wait_until_indexed(self.project, FILE, PATIENCE_S)

    def tear_down(self) -> None:
        for gateway in self.gateways:
            gateway.end(signal.SIGTERM)
        self.cluster.admin("slurmctld", "bash", "-c", self._end_jobs(), user="slurm")
        for door in (self._door, self._s3_door):
            door.stop()
        self.s3_server.stop()
        self.levers.tear_down()

    def _end_jobs(self) -> str:
        ours = f"squeue --noheader --format='%i %j' | sed -n 's/ divbase-{self.project}-.*//p'"
        return f"{ours} | xargs --no-run-if-empty scancel"

    def _settings(self, s3: S3Endpoint) -> dict[str, str]:
        cluster = self.cluster
        return {
            **QUICK,
            "DATABASE__URL": self.database or f"sqlite:///{self.folder / 'divbase.sqlite3'}",
            "S3__ENDPOINT": s3.endpoint_url,
            "S3__PUBLIC_ENDPOINT": f"http://{self.bridge}:{self._s3_door.port}",
            "S3__NODE_ENDPOINT": f"http://host.docker.internal:{self._s3_door.port}",
            "S3__ACCESS_KEY": s3.access_key,
            "S3__SECRET_KEY": s3.secret_key,
            "S3__BUCKET_PREFIX": "divbase-test-",
            "SERVER__PUBLIC_URL": self.url,
            "SERVER__NODE_URL": f"http://host.docker.internal:{self._door.port}",
            "SCHEDULER__KIND": "slurm-ssh",
            "SCHEDULER__CLUSTER": "divbase",
            "SCHEDULER__WORK_DIR": str(self.levers.work_dir),
            "SCHEDULER__BIN_DIR": str(self.levers.bin_dir),
            "SCHEDULER__ACCOUNT": "divbase",
            "SCHEDULER__SSH_HOST": cluster.host,
            "SCHEDULER__SSH_PORT": str(cluster.port),
            "SCHEDULER__SSH_USER": cluster.user,
            "SCHEDULER__SSH_KEY_FILE": str(cluster.key_file),
            "SCHEDULER__SSH_KNOWN_HOSTS": str(self.known_hosts),
            "JOBS__PROLOGUE": json.dumps([f". {self.levers.prologue}"]),
            **self.settings,
        }

    @property
    def known_hosts(self) -> Path:
        """A copy of the pinned host keys that a test may change."""
        path = self.folder / "known_hosts"
        if not path.exists():
            path.write_text(self.cluster.known_hosts.read_text())
        return path

    @property
    def url(self) -> str:
        return f"http://{self.bridge}:{self._door.port}"

    @property
    def gateway(self) -> Replica:
        """The first of the gateways: the one, where there is one."""
        return self.gateways[0]

    def operate(self, *words: str) -> str:
        """A command of `divbase-gateway` that the operator runs; its standard output."""
        ended = subprocess.run(
            [str(BIN / "divbase-gateway"), *words],
            cwd=self.folder,
            env=self.gateway.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert ended.returncode == 0, f"{words}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    @property
    def log(self) -> str:
        """What all gateways have logged in this test."""
        return "".join(gateway.words for gateway in self.gateways)

    @contextmanager
    def without_s3(self) -> Iterator[None]:
        """With the S3 server ended, until the block ends; it comes back on the same port with its data."""
        self.s3_server.stop()
        try:
            yield
        finally:
            self.s3_server.start()

    # --- who uses it ---------------------------------------------------------------------------------------------

    def client(self) -> Client:
        return Client(self.url, self.key, retry=Retry(attempts=12))

    @cached_property
    def user(self) -> Client:
        """For looks, of which there are many."""
        return self.client()

    def submit(self, command: str = COMMAND, name: str = "result") -> str:
        """A query over the file: the id of a job of its own, whatever was asked before."""
        query = Query(all_samples=True, command=command, name=name)
        return self.user.jobs.submit(self.project, query, fresh=True).id

    def job(self, job: str) -> JobDetail:
        return self.user.jobs.get(self.project, job)

    def reaches(self, job: str, *states: JobState, patience_s: float = PATIENCE_S) -> JobDetail:
        """The job once it is in one of these states."""
        try:
            seen = wait_for(lambda: self._in(job, states), f"job {job} in {states}", patience_s)
        except AssertionError as error:
            error.add_note(self._told_of(job))
            raise
        assert seen.state in states, f"{seen.state} {seen.reason}: {seen.message} {self.attempts(seen)}"
        return seen

    def _told_of(self, job: str) -> str:
        """What is known of a job that does not come to its end: here, at SLURM, and in the last lines of the log."""
        seen = self.job(job)
        here = f"{seen.state} {seen.reason}: {seen.message} {seen.stuck or seen.waiting} {self.attempts(seen)}"
        asked = ("squeue", "--all", "--format=%i %j %T %r %S %N"), ("sinfo", "--all", "--format=%n %T %E")
        log = [line for line in self.log.splitlines() if "request.answered" not in line]
        return "\n".join([here, *map(self._answered, asked), *log[-30:]])

    def _answered(self, command: Sequence[str]) -> str:
        try:
            return self.cluster.admin("slurmctld", *command)
        except (CommandFailed, subprocess.TimeoutExpired) as error:
            return str(error)

    def _in(self, job: str, states: Sequence[JobState]) -> JobDetail | None:
        seen = self.job(job)
        return seen if seen.state in states or seen.state.is_end else None

    def succeeds(self, job: str, patience_s: float = PATIENCE_S) -> JobDetail:
        return self.reaches(job, JobState.SUCCEEDED, patience_s=patience_s)

    def ends(self, job: str, patience_s: float = PATIENCE_S) -> JobDetail:
        return self.reaches(job, *(state for state in JobState if state.is_end), patience_s=patience_s)

    def attempts(self, job: JobDetail) -> list[tuple[str | None, str | None]]:
        return [(attempt.slurm_state, attempt.outcome) for attempt in job.attempts]

    def slurm_id(self, job: str) -> str:
        """The id that the scheduler gave the job's attempt."""
        found = wait_for(lambda: self.job(job).slurm_job_id, f"the scheduler's id of job {job}")
        assert isinstance(found, str)
        return found

    def checks(self) -> dict[str, str]:
        """What /ready says of database, store and scheduler; it is not older than five seconds."""
        answer = httpx.get(f"{self.url}/api/v1/ready", timeout=90.0, trust_env=False)
        return dict(answer.json()["checks"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
