"""The embedded stack as a process of its own, as an operator runs it: `divbase-gateway up` in a folder.

It starts, stops and kills processes of that folder only, and leaves none behind; it knows nothing of what is tested.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import psutil
from divbase_client import Client, Retry
from divbase_client.jobs import Jobs
from divbase_client.models import JobDetail, JobState, Query
from divbase_gateway.local.bcftools import ensure_bcftools
from divbase_gateway.local.seaweedfs import SeaweedServer

BIN = Path(sys.executable).parent
PATIENCE_S = 120.0  # for anything that takes a moment on a machine that has nothing else to do

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found | None], what: str, timeout: float = PATIENCE_S) -> Found:
    """Ask until `condition` gives something true, and return that."""
    until = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < until, f"waited {timeout:.0f} s in vain: {what}"
        time.sleep(0.1)


@dataclass
class Stack:
    """A stack in `folder`. `settings` are DIVBASE_ variables without that prefix, `wrapper` goes before the command."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    wrapper: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "gateway.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{(self.data / 'port').read_text().strip()}"

    @property
    def key(self) -> str:
        return (self.data / "admin.key").read_text().strip()

    @property
    def s3(self) -> SeaweedServer:
        return SeaweedServer(self.data / "s3")

    # --- the gateway ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, on the port of its first start, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own = {name: value for name, value in os.environ.items() if not name.startswith("DIVBASE_")}
        settings = {"JOBS__TICK_S": "0.5", **self.settings}
        environment = {**own, **{f"DIVBASE_{name}": value for name, value in settings.items()}, **self.environment}
        command = [*self.wrapper, str(BIN / "divbase-gateway"), "up", "--folder", str(self.data), "--port", "0"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )
        wait_for(self._answers, "the gateway's first answer")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the gateway ended: {self.log.read_text()[-3000:]}"
        with suppress(OSError, ValueError):
            with urllib.request.urlopen(f"{self.url}/api/v1/ready", timeout=10) as answer:  # noqa: S310 - ours
                return bool(answer.status == 200)
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end and wait until it has; nothing of it runs after that."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=PATIENCE_S)
        wait_for(lambda: not self.processes(), f"the end of {self.processes()}")

    def kill(self) -> None:
        """SIGKILL the gateway alone; its S3 server and its jobs go on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_s3(self) -> None:
        """SIGKILL the S3 server; `restart_s3` brings it back under the same address."""
        pid = self.s3.pid
        assert pid is not None
        server = psutil.Process(pid)
        server.kill()
        wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "the end of weed")

    def restart_s3(self) -> None:
        """Bring the S3 server back, from a program that ends: it is nobody's child, as after a gateway was killed."""
        words = "import sys, pathlib; from divbase_gateway.local.seaweedfs import SeaweedServer"
        program = f"{words}; SeaweedServer(pathlib.Path(sys.argv[1])).start()"
        subprocess.run([sys.executable, "-c", program, str(self.data / "s3")], check=True, timeout=PATIENCE_S)

    def processes(self) -> list[psutil.Process]:
        """Every living process that works in this folder: gateway, S3 server, supervisors, jobs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                named = any(str(self.folder) in word for word in process.cmdline())
                inside = Path(process.cwd()).is_relative_to(self.folder)
                if (named or inside) and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                    found.append(process)
        return found

    def clear(self) -> None:
        """End whatever is left of it, by its process ids."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=30)
        self.s3.stop()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        if self.process is not None:
            self.process.wait()

    # --- who uses it ------------------------------------------------------------------------------------------------

    def client(self, attempts: int = 12) -> Client:
        return Client(self.url, self.key, retry=Retry(attempts=attempts))

    def run(self, *words: str, code: int = 0, stdin: str | None = None) -> str:
        """One command of `divbase`, with the profile of this folder; its standard output."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("DIVBASE_")}
        ended = subprocess.run(
            [str(BIN / "divbase"), *words],
            cwd=self.folder,
            env=own | {"DIVBASE_CONFIG": str(self.folder / "laptop.toml")},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=4 * PATIENCE_S,
        )
        assert ended.returncode == code, (
            f"divbase {shlex.join(words)}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
        )
        return ended.stdout


@dataclass(frozen=True)
class Project:
    """A project of a stack with everything that its tests ask of it."""

    stack: Stack
    name: str

    @classmethod
    def create(cls, stack: Stack, name: str, files: Sequence[Path] = (), metadata: Path | None = None) -> Project:
        """A project with these files, each usable or said to be not."""
        project = cls(stack, name)
        with stack.client() as client:
            client.projects.create(name)
            for path in files:
                client.files.upload(name, path)
            for path in files:
                client.files.wait_until_indexed(name, path.name, PATIENCE_S)
            if metadata is not None:
                client.metadata.push(name, metadata)
        return project

    def submit(self, command: str = "view", where: str | None = None, level: int = 3) -> str:
        """A query over all files, of all samples unless `where` chooses: the id of a job of its own."""
        query = Query(where=where, all_samples=where is None, command=command, level=level)
        return self.jobs.submit(self.name, query, fresh=True).id

    @cached_property
    def jobs(self) -> Jobs:
        """For looks, of which there are many: a client takes longer to make than to use."""
        return self.stack.client().jobs

    def job(self, job: str) -> JobDetail:
        return self.jobs.get(self.name, job)

    def log_text(self, job: str) -> str:
        return self.jobs.log(self.name, job).text

    def reaches(self, job: str, *states: JobState) -> JobDetail:
        """The job once it is in one of these states."""
        seen = wait_for(lambda: self._ended_or_in(job, states), f"job {job} in {states}")
        assert seen.state in states, f"{seen.state} {seen.reason}: {seen.message}\n{self.log_text(job)}"
        return seen

    def _ended_or_in(self, job: str, states: Sequence[JobState]) -> JobDetail | None:
        seen = self.job(job)
        return seen if seen.state in states or seen.state.is_end else None

    def succeeds(self, job: str) -> JobDetail:
        return self.reaches(job, JobState.SUCCEEDED)

    def fetch(self, job: str, folder: Path) -> Path:
        """The job's result on this machine."""
        with self.stack.client() as client:
            outcomes = list(client.jobs.download(self.name, job, folder))
        assert not [outcome for outcome in outcomes if not hasattr(outcome, "path")], outcomes
        (result,) = [path for path in folder.iterdir() if path.name.endswith((".vcf.gz", ".bcf"))]
        return result


def result_of(job: JobDetail) -> str:
    """The SHA-256 of the job's result."""
    (result,) = [each for each in job.results if each.role == "result"]
    return result.sha256


def outcomes_of(job: JobDetail) -> list[str | None]:
    return [attempt.outcome for attempt in job.attempts]


@dataclass(frozen=True)
class Gate:
    """A bcftools that a test holds back: while the gate is closed every command of it waits."""

    folder: Path

    @classmethod
    def build(cls, folder: Path) -> Gate:
        gate = cls(folder)
        (folder / "bin").mkdir(parents=True)
        program = folder / "bin" / "bcftools"
        program.write_text(
            "#!/bin/sh\n"
            'case "$1" in --version*) ;; *)\n'
            f"  while [ -e {shlex.quote(str(folder / 'closed'))} ]; do sleep 0.05; done ;;\n"
            "esac\n"
            f'exec {shlex.quote(str(real_bcftools(folder)))} "$@"\n'
        )
        program.chmod(0o755)
        return gate

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def close(self) -> None:
        (self.folder / "closed").touch()

    def open(self) -> None:
        (self.folder / "closed").unlink(missing_ok=True)


def real_bcftools(folder: Path) -> Path:
    return ensure_bcftools(folder / "real-bcftools").path


@dataclass(frozen=True)
class Bcftools:
    """bcftools as one runs it by hand, in a folder of one's own."""

    folder: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Bcftools:
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    def run(self, *words: str | Path) -> bytes:
        program = real_bcftools(self.folder)
        ended = subprocess.run([program, *words], cwd=self.folder, capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr.decode()
        return ended.stdout

    def indexed(self, name: str, *words: str | Path) -> Path:
        """The output of a command as an indexed BCF."""
        path = self.folder / name
        self.run(*words, "-Ob", "-o", path)
        self.run("index", "--csi", "-f", path)
        return path

    def samples(self, path: Path) -> list[str]:
        return self.run("query", "-l", path).decode().split()

    def records(self, path: Path) -> list[str]:
        """Records without the header, as `bcftools view -H` prints them."""
        return self.run("view", "-H", path).decode().splitlines()
