"""The same day on the SLURM cluster in containers: a gateway on this machine, which logs in to the cluster and has S3
and PostgreSQL there; then the same question to the embedded stack, and whether both answers are the same bytes.

bcftools is one build on both sides, the one inside pysam: other builds compress the same records into other bytes.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import psycopg
from divbase_gateway.local.bcftools import launcher, write_pysam_bcftools
from psycopg import sql

from demo.day import BIN, Laptop, StepFailed, console, prompt, same_question, say, whole_day
from demo.gateways import embedded, serving, short

SCRIPT = Path(__file__).parents[1] / "slurm-docker-cluster" / "cluster"
SITE = "/shared/site"
"""Where the cluster's software is, as sites have a folder for it."""

_LIBRARIES = ("pysam/libcbcftools", "pysam/libchtslib", "pysam.libs/")
"""What of pysam bcftools needs."""

_PROLOGUE = f"""
[jobs]
prologue = ["export PATH={SITE}/bin:$PATH"]    # where this site keeps its bcftools
"""

_SQUEUE = "squeue --format='%.6i %.46j %.8u %.8a %.9T %.5M %.4N %k'"
_SACCT = "sacct -X --starttime=now-1hour --format=JobID,JobName%46,User,Account,State,Elapsed,NodeList%6,Comment%40"


def day(folder: Path, *, keep: bool) -> None:
    """The whole day on the cluster, what the administrator saw of it, and the comparison.

    Raises:
        StepFailed: a step did not do what it should, or the two answers differ.
    """
    folder = folder / "slurm"
    for name in ("laptop", "embedded"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    say("A SLURM cluster: accounting, controller, two nodes, a login node, S3 and PostgreSQL, in containers.")
    site = Site.ready(folder)
    with site.gateway(keep=keep) as (url, key):
        laptop = Laptop(folder / "laptop", url, key)
        with site.watched() as queue:
            whole_day(laptop)
        say("What the cluster's administrator saw: squeue while it ran, sacct afterwards.")
        prompt(_SQUEUE)
        console.print(queue.shown, markup=False)
        prompt(_SACCT)
        console.print(site.ssh(_SACCT), markup=False)
        site.audit()
    say("The same files and the same question, without SLURM: the embedded scheduler of this machine.")
    alone = _embedded_answer(folder / "embedded")
    _compare(laptop.sha256(), alone)


def _embedded_answer(folder: Path) -> str:
    programs = write_pysam_bcftools(folder / "bin").path.parent
    (folder / "laptop").mkdir()
    with embedded(folder, keep=False, path=programs) as url:
        laptop = Laptop(folder / "laptop", url, (folder / "stack" / "admin.key").read_text().strip())
        same_question(laptop)
        return laptop.sha256()


def _compare(slurm: str, alone: str) -> None:
    say("Are the two answers the same?")
    console.print(f"  sha256 from SLURM:                  {slurm}")
    console.print(f"  sha256 from the embedded scheduler: {alone}")
    if slurm != alone:
        raise StepFailed("the two answers differ")
    console.print("  The same bytes.", style="bold green")


class Queue:
    """What squeue said when it last showed a job that ran; before the first one, what it said last."""

    def __init__(self) -> None:
        self.shown = ""

    def take(self, output: str) -> None:
        if "RUNNING" in output or "RUNNING" not in self.shown:
            self.shown = output


class Site:
    """The cluster that is up, and the settings of a gateway for it, in `config`."""

    def __init__(self, folder: Path, config: Path):
        self._folder = folder
        self._config = config
        self._settings = tomllib.loads(config.read_text())
        self._ssh_config = Path(self._settings["scheduler"]["ssh_known_hosts"]).with_name("ssh_config")

    @classmethod
    def ready(cls, folder: Path) -> Site:
        """Start the cluster where it is not up, write the settings down and install bcftools."""
        prompt(f"{short(SCRIPT)} up")
        console.print(_checked([str(SCRIPT), "up"]).rstrip(), markup=False)
        settings = _checked([str(SCRIPT), "settings"])
        url = tomllib.loads(settings)["database"]["url"]
        own = f"{url.rpartition('/')[0]}/{_own_database(url)}"
        config = folder / "divbase.toml"
        config.touch(mode=0o600)
        config.write_text(settings.replace(url, own) + _PROLOGUE)
        site = cls(folder, config)
        site._install_bcftools()
        return site

    def ssh(self, command: str, stdin: bytes = b"") -> str:
        """Run on the login node and return what it printed."""
        return _checked(["ssh", "-F", str(self._ssh_config), "login", command], stdin)

    @contextmanager
    def gateway(self, *, keep: bool) -> Iterator[tuple[str, str]]:
        """A gateway on this machine that works with the cluster: its address, and the first admin's key."""
        say("A gateway on this machine: it logs in to the login node, and has its rows in PostgreSQL and files in S3.")
        console.print("(The command line will warn of http, and rightly: a gateway for others than a demo has https.)")
        prompt(f"divbase-gateway init --email admin@example.org --config {short(self._config)}")
        key = self._gateway_says("init", "--email", "admin@example.org").strip()
        server = self._settings["server"]
        url = f"http://{server['host']}:{server['port']}"
        with serving(self._config, url, self._folder / "gateway.log", keep=keep) as answering:
            yield answering, key

    @contextmanager
    def watched(self) -> Iterator[Queue]:
        """Ask squeue twice a second, beside whatever happens."""
        queue, ended = Queue(), threading.Event()

        def look() -> None:
            while not ended.wait(0.5):
                queue.take(self.ssh(_SQUEUE))

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield queue
        finally:
            ended.set()
            watcher.join()

    def audit(self) -> None:
        """The operator's check that every accepted job has the runs in SLURM that it should have."""
        prompt(f"divbase-gateway audit --config {short(self._config)}")
        console.print(self._gateway_says("audit").rstrip(), markup=False)

    def _gateway_says(self, *words: str) -> str:
        return _checked([str(BIN / "divbase-gateway"), *words, "--config", str(self._config)])

    def _install_bcftools(self) -> None:
        say("The nodes get the bcftools that this machine has too, as a site installs software for its users.")
        python = self.ssh("python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").strip()
        self.ssh(f"rm -rf {SITE} && mkdir {SITE} && tar -xz -C {SITE}", _software(python))
        command = f"srun --account=divbase --quiet {SITE}/bin/bcftools --version"
        prompt(command)
        console.print(self.ssh(command).splitlines()[0], markup=False)


def _own_database(url: str) -> str:
    """A new, empty database beside the one of the settings: the cluster may have seen other demos."""
    name = f"demo_{time.strftime('%Y%m%d_%H%M%S')}"
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return name


def _software(python: str) -> bytes:
    """An archive of bcftools for nodes that have this Python: out of pysam's wheel, of the version that is here."""
    archive = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=archive, mode="w:gz") as tar:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        choice = ["--only-binary=:all:", f"--python-version={python}", f"--dest={folder}"]
        _checked([*pip, *choice, f"pysam=={version('pysam')}"])
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            libraries = [name for name in wheel.namelist() if name.startswith(_LIBRARIES)]
            for name in libraries:
                _add(tar, name, wheel.read(name))
        bcftools = next(name for name in libraries if "libcbcftools" in name)
        _add(tar, "bin/bcftools", launcher(PurePosixPath(SITE, bcftools), "/usr/bin/python3").encode())
    return archive.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    tar.addfile(entry, io.BytesIO(content))


def _checked(argv: list[str], stdin: bytes = b"") -> str:
    """Run it and return what it printed; what it said beside that is shown.

    Raises:
        StepFailed: it ended with another code than 0.
    """
    ended = subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=900)
    if ended.returncode:
        raise StepFailed(f"{argv[0]} ended with {ended.returncode}:\n{ended.stderr.decode(errors='replace')[-2000:]}")
    return ended.stdout.decode()
