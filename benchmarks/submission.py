"""What it costs to hand a job to SLURM: through each transport and through a whole gateway, against a loop of `sbatch`
on the login node, alone and with fifty clients at once. It needs the cluster in containers; no job runs there.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import secrets
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import divbase_gateway
import structlog
from divbase_client import Client
from divbase_gateway.db.models import JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.scheduler import CliScheduler
from divbase_gateway.slurm.ssh import SshRunner
from divbase_gateway.slurm.ssh_connection import Login
from divbase_jobscripts.render import node_helper_source
from sqlalchemy import func, select

from benchmarks.api import database_of
from benchmarks.figures import NotHere, Section, Spread, Table, spread
from benchmarks.machine import settle
from benchmarks.on_login_node import SystemClock, Timed, jobs_called, submit_all
from benchmarks.stack import Stack, running_stack, say
from tests.cluster.containers import Cluster, connect
from tests.variants import simulate

_CLIENTS = 50
_BARE, _SSH, _FIRST, _GATEWAY = "sbatch", "slurm-ssh", "slurm-ssh, connecting", "gateway, slurm-ssh"
_HEADER = "#!/bin/bash\n#SBATCH --account=divbase --partition=closed --time=5 --mem=64\n"
_SCRIPT = _HEADER + "# A line of a script, which is as long as that of a query.\n" * 60 + "true\n"
_FILES = {"divbase_node.py": node_helper_source(), "job.json": json.dumps({"token": "x" * 43}).encode()}


@dataclass(frozen=True)
class Size:
    """`alone` jobs one after the other, `crowd` jobs of fifty clients; so many rounds."""

    alone: int
    crowd: int
    rounds: int


@dataclass
class Site:
    """The cluster, a folder of ours on it, and what the names of our jobs begin with."""

    cluster: Cluster
    work_dir: PurePosixPath
    prefix: str

    def login(self) -> Login:
        cluster = self.cluster
        return Login(cluster.host, cluster.user, cluster.known_hosts, cluster.port, cluster.key_file)

    def on_login_node(self, command: str, given: bytes = b"") -> bytes:
        argv = ["ssh", "-F", str(self.cluster.ssh_config), "login", command]
        return subprocess.run(argv, input=given, capture_output=True, check=True, timeout=600).stdout


def measure(folder: Path, quick: bool) -> Section:
    """Measure on the cluster that is up.

    Raises:
        NotHere: none is.
    """
    size = Size(10, 100, 2) if quick else Size(30, 150, 3)
    alone: dict[str, list[Timed]] = {}
    crowd: dict[str, list[Timed]] = {}
    with _site() as site, _gateway(folder, site) as (stack, database):
        for number in range(size.rounds):
            settle()
            for clients, count, heard in ((1, size.alone, alone), (_CLIENTS, size.crowd, crowd)):
                for kind, timed in _round(site, f"{number}-{clients}", clients, count).items():
                    _note(heard, kind, timed, clients)
            _note(crowd, _GATEWAY, _through_gateway(stack, database, size.crowd), _CLIENTS)
            _clear(site)
    words = (
        f"A script of {len(_SCRIPT)} bytes to a partition that runs nothing. `sbatch` is a shell loop on the login "
        "node over a script that lies there, with the options that DivBase gives; everything else also makes the job's "
        f"directory and writes script, node helper ({len(_FILES['divbase_node.py']) // 1024} KiB) and token into it.",
        "`slurm-ssh` goes from this machine through sshd of the login node, over a connection that is there already "
        "unless it says so; `slurm-local` runs on the login node. Everything shares this machine's cores.",
        f"With {_CLIENTS} clients: `sbatch` and the adapters submit from {_CLIENTS} processes or threads. `gateway` is "
        f"the whole service on PostgreSQL: {_CLIENTS} clients POST a query each, again as soon as it is accepted, and "
        "the time ends when SLURM has the last job and the database knows.",
    )
    raw = {
        "alone": {kind: [vars(one) for one in rounds] for kind, rounds in alone.items()},
        "crowd": {kind: [vars(one) for one in rounds] for kind, rounds in crowd.items()},
    }
    return Section("submission", "Handing a job to SLURM", words, (_alone(alone), _crowd(crowd)), raw)


def _note(heard: dict[str, list[Timed]], kind: str, timed: Timed, clients: int) -> None:
    heard.setdefault(kind, []).append(timed)
    middle, rate = 1000 * spread(timed.each).median, len(timed.each) / timed.whole
    say(f"round {len(heard[kind])}, {kind}, {clients} at once: {middle:.1f} ms a job, {rate:.0f} jobs a second")


# --- the tables --------------------------------------------------------------------------------------------------


def _alone(heard: dict[str, list[Timed]]) -> Table:
    def middles(kind: str) -> list[float]:
        return [1000 * spread(one.each).median for one in heard[kind]]

    rows = [(kind, str(spread(middles(kind))), _against(middles(kind), middles(_BARE), kind)) for kind in heard]
    return Table("One after the other", ("", "ms a job", "time against sbatch"), tuple(rows))


def _crowd(heard: dict[str, list[Timed]]) -> Table:
    def rates(kind: str) -> list[float]:
        return [len(one.each) / one.whole for one in heard[kind]]

    rows = [(kind, str(spread(rates(kind))), _against(rates(kind), rates(_BARE), kind)) for kind in heard]
    return Table(f"{_CLIENTS} clients at once", ("", "jobs a second", "rate against sbatch"), tuple(rows))


def _against(mine: list[float], bare: list[float], kind: str) -> str:
    ratios: Spread = spread([a / b for a, b in zip(mine, bare, strict=True)])
    return "1" if kind == _BARE else str(ratios)


# --- one round ---------------------------------------------------------------------------------------------------


def _round(site: Site, name: str, clients: int, count: int) -> dict[str, Timed]:
    """Everything once, one after the other: what disturbs the machine disturbs all of them."""
    heard = {_BARE: _bare(site, clients, count)}
    if clients == 1:
        heard[_FIRST] = _connecting(site, f"{site.prefix}-{name}-first", count // 10 + 1)
    runner = SshRunner(site.login())
    scheduler = _over_ssh(site, runner)
    submit_all(scheduler, jobs_called(f"{site.prefix}-{name}-warm", min(clients, 8), _SCRIPT, _FILES), clients)
    heard[_SSH] = submit_all(scheduler, jobs_called(f"{site.prefix}-{name}", count, _SCRIPT, _FILES), clients)
    runner.close()
    told = {
        "work_dir": str(site.work_dir),
        "prefix": f"{site.prefix}-{name}",
        "jobs": count,
        "clients": clients,
        "script": _SCRIPT,
        "files": {name: content.decode() for name, content in _FILES.items()},
    }
    program = f"PYTHONPATH={site.work_dir}/lib python3 -m benchmarks.on_login_node"
    said = site.on_login_node(program, json.dumps(told).encode())
    local = json.loads(said.splitlines()[-1])  # before it what the adapters log
    return heard | {kind: Timed(**timed) for kind, timed in local.items()}


def _connecting(site: Site, prefix: str, count: int) -> Timed:
    """The first job of a new connection, so many times."""
    heard = []
    for number in range(count):
        runner = SshRunner(site.login())
        job = jobs_called(f"{prefix}-{number}", 1, _SCRIPT, _FILES)
        heard.append(submit_all(_over_ssh(site, runner), job, 1))
        runner.close()
    each = [timed.each[0] for timed in heard]
    return Timed(each, sum(each), [timed.ids[0] for timed in heard])


def _bare(site: Site, clients: int, count: int) -> Timed:
    """The same options on a script that is there: a loop, or `clients` processes at once."""
    argv = SlurmCommands(PurePosixPath("/usr/bin")).sbatch(site.work_dir / "bare", f"{site.prefix}-bare", "script.sh")
    if clients == 1:
        line = f"a=$EPOCHREALTIME; {' '.join(argv)}; b=$EPOCHREALTIME; echo took $((${{b/./}} - ${{a/./}}))"
        program = f"for i in $(seq {count}); do {line}; done"
    else:
        program = f"seq {count} | xargs -P {clients} -I@ {' '.join(argv)}"
    timed = f"s=$EPOCHREALTIME; {program}; e=$EPOCHREALTIME; echo whole $((${{e/./}} - ${{s/./}}))"
    said = site.on_login_node("exec bash", timed.encode()).decode()
    ids = re.findall(r"^\d+$", said, re.MULTILINE)
    whole = int(re.findall(r"^whole (\d+)$", said, re.MULTILINE)[0]) / 1e6
    each = [int(each) / 1e6 for each in re.findall(r"^took (\d+)$", said, re.MULTILINE)]
    return Timed(each or [whole / count] * count, whole, ids)


def _over_ssh(site: Site, runner: SshRunner) -> CliScheduler:
    return CliScheduler(runner, SlurmCommands(PurePosixPath("/usr/bin")), site.work_dir, "bench", SystemClock())


def _through_gateway(stack: Stack, database: Database, count: int) -> Timed:
    """Fifty clients, a POST each, until SLURM has all of the jobs; the seconds of each are those of its POST."""
    parts = urlsplit(stack.url)

    def post(number: int) -> float:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        body = json.dumps({"all_samples": True, "command": "view", "name": f"q{secrets.token_hex(6)}"})
        headers = {
            "Authorization": f"Bearer {stack.key}",
            "Content-Type": "application/json",
            "Idempotency-Key": secrets.token_hex(8),
        }
        begun = time.perf_counter()
        connection.request("POST", "/api/v1/projects/bench/jobs", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        took = time.perf_counter() - begun
        connection.close()
        if answer.status != 201:
            raise RuntimeError(f"POST {number} was answered with {answer.status}: {text[:500]!r}")
        return took

    begun = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        each = list(pool.map(post, range(count)))
    while _jobs_in(database, JobState.ACCEPTED, JobState.SUBMITTING):
        time.sleep(0.02)
    whole = time.perf_counter() - begun
    if _jobs_in(database, JobState.SUBMIT_UNKNOWN, JobState.FAILED):
        raise RuntimeError("not every job of the gateway was submitted; its log says why")
    return Timed(each, whole, [])


def _jobs_in(database: Database, *states: JobState) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(JobRow).where(JobRow.state.in_(states))) or 0


# --- what is there before, and after -----------------------------------------------------------------------------


@contextmanager
def _site() -> Iterator[Site]:
    """A folder with a script and the gateway's adapters on the login node; jobs and folder are gone afterwards."""
    try:
        cluster = connect()
    except FileNotFoundError as error:
        raise NotHere("no SLURM cluster is up (make cluster-up)") from error
    name = f"bench-{secrets.token_hex(4)}"
    site = Site(cluster, PurePosixPath("/shared/divbase") / name, name)
    site.on_login_node(f"mkdir -m 700 {site.work_dir} && mkdir {site.work_dir}/bare {site.work_dir}/lib")
    try:
        site.on_login_node(f"cat > {site.work_dir}/bare/script.sh", _SCRIPT.encode())
        site.on_login_node(f"tar -xf - -C {site.work_dir}/lib", _packages())
        yield site
    finally:
        _clear(site)
        site.on_login_node(f"rm -rf {site.work_dir}")


def _clear(site: Site) -> None:
    """Cancel what was submitted, the gateway's jobs by their names: a full queue slows the controller down."""
    said = site.on_login_node("squeue --noheader --me --format='%i %j' --partition=closed").decode()
    left = [line.split(" ", 1) for line in said.splitlines()]
    mine = {job_id for job_id, name in left if name.startswith(("divbase-bench-", site.prefix))}
    for at in range(0, len(mine), 500):
        site.on_login_node("scancel " + " ".join(sorted(mine)[at : at + 500]))


def _packages() -> bytes:
    """The gateway's package, structlog and the program: all in Python, so that they run on that machine as they are."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for package in (divbase_gateway, structlog):
            assert package.__file__ is not None
            here = Path(package.__file__).parent
            for path in here.rglob("*.py"):
                tar.add(path, arcname=str(path.relative_to(here.parent)))
        for name in ("__init__.py", "on_login_node.py"):
            tar.add(Path(__file__).with_name(name), arcname=f"benchmarks/{name}")
    return archive.getvalue()


@contextmanager
def _gateway(folder: Path, site: Site) -> Iterator[tuple[Stack, Database]]:
    """A gateway on PostgreSQL with a project of one small file, submitting to the closed partition of the cluster."""
    login = site.login()
    scheduler = {
        "KIND": "slurm-ssh",
        "CLUSTER": "bench",
        "WORK_DIR": str(site.work_dir),
        "PARTITION": "closed",
        "ACCOUNT": "divbase",
        "SSH_HOST": login.host,
        "SSH_PORT": str(login.port),
        "SSH_USER": login.user,
        "SSH_KEY_FILE": str(login.key_file),
        "SSH_KNOWN_HOSTS": str(login.known_hosts),
    }
    settings = {f"DIVBASE_SCHEDULER__{name}": value for name, value in scheduler.items()}
    settings["DIVBASE_SERVER__LOG_LEVEL"] = "warning"
    with database_of("PostgreSQL", folder / "database") as url:
        assert url is not None
        with running_stack(folder / "stack", settings | {"DIVBASE_DATABASE__URL": url}) as stack:
            with stack.client() as client:
                _make_project(client, folder)
            database = Database(url, pool_size=1)
            yield stack, database
            database.close()


def _make_project(client: Client, folder: Path) -> None:
    client.projects.create("bench")
    file = simulate(folder / "a.vcf.gz", index="csi")
    assert file.index is not None
    for path in (file.index, file.path):  # the index first: a job that makes one would never run
        client.files.upload("bench", path)
    client.files.wait_until_indexed("bench", file.path.name)
