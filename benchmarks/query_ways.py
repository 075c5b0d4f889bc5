"""The ways to an answer that `query` compares: DivBase's job, its node's steps alone, and bcftools by hand after whole
downloads. Each is asked the same question and leaves a result file; what it took is measured here, in the same way for
all. Results are read afterwards, and not by the way that made them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.config import Config
from divbase_client import Client
from divbase_client.models import JobState, Query
from divbase_client.transfers import Failed
from divbase_gateway.domain.plans import part_to_dict, plan_from_dict
from divbase_gateway.domain.queries import Plan, PlannedInput, Process
from divbase_jobscripts.render import node_helper_source

from benchmarks.genomes import GenomeFile, Region
from benchmarks.machine import cpu_of
from benchmarks.network import Network, Traffic
from benchmarks.stack import Stack
from benchmarks.watching import Watch, tree_of

_LOOK_S = 0.01


@dataclass(frozen=True)
class Question:
    """`chosen`: for every file its samples that are asked for, None for all of all files."""

    region: Region | None
    chosen: tuple[tuple[str, ...], ...] | None


@dataclass(frozen=True)
class Scene:
    """A project in a running stack, with its files here as well. `bcftools` is what the stack's jobs run."""

    stack: Stack
    client: Client
    network: Network
    project: str
    bucket: str
    files: tuple[GenomeFile, ...]
    folder: Path
    bcftools: Path

    @property
    def scratch(self) -> Path:
        """Where the stack's jobs have their scratch folders."""
        return self.stack.folder / "scratch"


@dataclass(frozen=True)
class Taken:
    """What one answer took: seconds, bytes. `traffic` is between the node and S3, and `steps` are seconds by name."""

    wall: float
    cpu: float
    memory: int
    scratch: int
    traffic: Traffic
    result: Path
    steps: dict[str, float] = field(default_factory=dict)


class Way(ABC):
    """A way to an answer. `title` is its row in a table."""

    title: str

    def __init__(self, scene: Scene):
        self._scene = scene

    @abstractmethod
    def answer(self, question: Question, folder: Path) -> Taken:
        """Do it in the new folder, which is removed afterwards."""


# --- with DivBase ------------------------------------------------------------------------------------------------


class ByJob(Way):
    """`POST …/jobs` until the job has succeeded. Its CPU is the gateway's and its jobs', without S3's.

    The end is looked for in the database: asking the gateway so often would take from the job the core that it needs.
    """

    title = "DivBase, job"
    last: str
    """The id of the last job."""

    def answer(self, question: Question, folder: Path) -> Taken:
        scene, query = self._scene, _query_of(question)
        gateway = psutil.Process(scene.stack.pid)
        before = _own_cpu(gateway)
        scene.network.traffic()
        with Watch(self._processes, scene.scratch) as watch:
            begun = time.perf_counter()
            job = scene.client.jobs.submit(scene.project, query, fresh=True)
            self._wait(job.id)
            wall = time.perf_counter() - begun
        job = scene.client.jobs.get(scene.project, job.id)
        if job.state is not JobState.SUCCEEDED:
            raise RuntimeError(f"the job is {job.state}: {job.message}")
        traffic, cpu = scene.network.traffic(), _own_cpu(gateway) - before
        self.last = job.id
        for outcome in scene.client.jobs.download(scene.project, job.id, folder):
            if isinstance(outcome, Failed):
                raise outcome.error
        timings = _stored(scene.stack, "SELECT report FROM attempts JOIN jobs ON jobs.id = job_id", job.id)["timings"]
        steps = {name.removesuffix("_s"): seconds for name, seconds in timings.items()}
        steps["job's CPU"] = job.attempts[-1].cpu_s or 0.0
        return Taken(wall, cpu, watch.memory, watch.scratch, traffic, folder / "result.vcf.gz", steps)

    def _wait(self, job: str) -> None:
        database = _opened(self._scene.stack)
        while True:
            (state,) = database.execute("SELECT state FROM jobs WHERE public_id = ?", (job,)).fetchone()
            if JobState(state).is_end:
                break
            time.sleep(_LOOK_S)
        database.close()

    def _processes(self) -> list[psutil.Process]:
        """The jobs' supervisors and all below them: children of the gateway, as the S3 server is."""
        others = {self._scene.stack.pid, *(each.pid for each in tree_of(self._server))}
        return [each for each in tree_of(self._scene.stack.pid) if each.pid not in others]

    @property
    def _server(self) -> int:
        return int(json.loads((self._scene.stack.folder / "s3" / "process.json").read_text())["pid"])


class ByNode(Way):
    """The steps `stage` and `run` of the last job's plan, as its script starts them; nobody is asked or told."""

    title = "DivBase, stage and run"

    def __init__(self, scene: Scene, jobs: ByJob):
        super().__init__(scene)
        self._jobs = jobs
        access, secret = scene.stack.s3()[1:]
        self._s3 = _s3_client(scene.network.url, access, secret)

    def answer(self, question: Question, folder: Path) -> Taken:
        """Of a question that a job was asked just before."""
        plan = plan_from_dict(_stored(self._scene.stack, "SELECT plan FROM jobs", self._jobs.last))
        for name in ("job", "scratch"):
            (folder / name).mkdir()
        (folder / "job" / "divbase_node.py").write_bytes(node_helper_source())
        manifest = self._manifest(plan)
        (folder / "job" / "manifest.json").write_text(json.dumps(manifest))
        (folder / "scratch" / "state.json").write_text(json.dumps({"manifest": manifest}))
        (folder / "scratch" / "pipeline").write_bytes(b"".join(map(_noted, plan.processes)))
        self._scene.network.traffic()
        begun = time.perf_counter()
        process = self._start(folder)
        with Watch(lambda: tree_of(process.pid), folder / "scratch") as watch:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"the node's steps failed: {(folder / 'job' / 'job.log').read_text()[-2000:]}")
        traffic = self._scene.network.traffic()
        timings = json.loads((folder / "scratch" / "state.json").read_text())["timings"]
        steps = {name.removesuffix("_s"): seconds for name, seconds in timings.items()}
        steps["processes"] = len(plan.processes) + 1  # which writes the index of the result
        cpu, result = usage.ru_utime + usage.ru_stime, folder / "scratch" / "out" / plan.output_name
        return Taken(wall, cpu, watch.memory, watch.scratch, traffic, result, steps)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        start = 'import sys; sys.path.insert(0, ""); import divbase_node; divbase_node.start()'
        script = 'for step in stage run; do "$0" -IS -c "$1" "$step" || exit 1; done'
        path = f"{self._scene.bcftools.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        scratch = str(folder / "scratch")
        with (folder / "job" / "job.log").open("wb") as log:
            return subprocess.Popen(
                ["bash", "-c", script, sys.executable, start],
                cwd=folder / "job",
                env={"PATH": path, "LANG": "C.UTF-8", "DIVBASE_SCRATCH": scratch, "TMPDIR": scratch},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _manifest(self, plan: Plan) -> dict[str, Any]:
        inputs = [self._input(each) for each in plan.inputs]
        about = {"job": "bare", "attempt": 1, "kind": "query", "part_size": 64 << 20, "retry_for_s": 60}
        return {**about, "inputs": inputs, "expires_at": time.time() + 3600}

    def _input(self, entry: PlannedInput) -> dict[str, Any]:
        read = entry.source
        facts: dict[str, Any] = {name: getattr(read, name) for name in ("key", "size", "etag", "sha256")}
        facts |= {"number": entry.number, "format": entry.read_format, "index": None}
        facts["request"] = self._request(read.key, read.version_id)
        facts["samples"] = None if entry.samples is None else list(entry.samples)
        if read.part is not None:
            return {**facts, "part": part_to_dict(read.part)}
        index = read.index
        request = self._request(index.key, index.version_id)
        return {**facts, "index": {"kind": index.kind, "size": index.size, "etag": index.etag, "request": request}}

    def _request(self, key: str, version: str) -> dict[str, Any]:
        place = {"Bucket": self._scene.bucket, "Key": key, "VersionId": version}
        return {"method": "GET", "url": self._s3.generate_presigned_url("get_object", Params=place), "headers": {}}


def _query_of(question: Question) -> Query:
    command = "view" if question.region is None else f"view -r {question.region}"
    if question.chosen is None:
        return Query(all_samples=True, command=command)
    return Query(samples=[name for names in question.chosen for name in names], command=command)


def _noted(process: Process) -> bytes:
    """As the script's `pipe` notes it down."""
    words = [process.id, *(word for source in process.sources for word in ("--from", source))]
    words += ["--materialise"] if process.materialise else []
    words += ["--output", process.output] if process.output else []
    words += ["--", *process.argv]
    return b"".join(word.encode() + b"\0" for word in (str(len(words)), *words))


def _stored(stack: Stack, select: str, job: str) -> dict[str, Any]:
    """A column of JSON of the job's row."""
    database = _opened(stack)
    try:
        text = database.execute(f"{select} WHERE public_id = ?", (job,)).fetchone()[0]
    finally:
        database.close()
    found: dict[str, Any] = json.loads(text)
    return found


def _opened(stack: Stack) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{stack.folder / 'divbase.sqlite3'}?mode=ro", uri=True)


def _own_cpu(process: psutil.Process) -> float:
    """CPU seconds of a process and of its children that have ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _s3_client(endpoint: str, access: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


# --- by hand -----------------------------------------------------------------------------------------------------


class ByHand(Way):
    """Every file whole, then bcftools; boto3 is imported and its client made before the time begins."""

    def __init__(self, scene: Scene, *, piped: bool):
        super().__init__(scene)
        self._piped = piped
        self.title = "whole downloads, pipes" if piped else "whole downloads, step by step"

    def answer(self, question: Question, folder: Path) -> Taken:
        for name in ("in", "tmp", "samples"):
            (folder / name).mkdir()
        for number, names in enumerate(question.chosen or ()):
            (folder / "samples" / f"{number}.txt").write_text("".join(f"{name}\n" for name in names))
        command = [sys.executable, "-m", "benchmarks.by_hand"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps(self._told(question, folder)), file=process.stdin, flush=True)
            process.stdout.readline()
            self._scene.network.traffic()
            before = cpu_of(psutil.Process(process.pid))
            with Watch(lambda: tree_of(process.pid), folder) as watch:
                begun = time.perf_counter()
                print(file=process.stdin, flush=True)
                said = process.stdout.readline()
                wall = time.perf_counter() - begun
            if not said:
                raise RuntimeError(f"{self.title} failed; its words are above")
            cpu, traffic = cpu_of(psutil.Process(process.pid)) - before, self._scene.network.traffic()
        return Taken(wall, cpu, watch.memory, watch.scratch, traffic, folder / "result.vcf.gz", json.loads(said))

    def _told(self, question: Question, folder: Path) -> dict[str, Any]:
        scene = self._scene
        return {
            "folder": str(folder),
            "bcftools": str(scene.bcftools),
            "endpoint": scene.network.url,
            "s3_keys": scene.stack.s3()[1:],
            "bucket": scene.bucket,
            "keys": [file.path.name for file in scene.files],
            "region": None if question.region is None else str(question.region),
            "cut": question.chosen is not None,
            "piped": self._piped,
        }


# --- results -----------------------------------------------------------------------------------------------------


class Reader:
    """Digests of records: equal files are read once."""

    def __init__(self, bcftools: Path):
        self._bcftools = bcftools
        self._known: dict[str, str] = {}

    def digest(self, result: Path) -> str:
        """SHA-256 of the samples' names and the records as text, in order, without the rest of the header."""
        with result.open("rb") as file:
            of_file = hashlib.file_digest(file, "sha256").hexdigest()
        if of_file not in self._known:
            self._known[of_file] = self._read(result)
        return self._known[of_file]

    def _read(self, result: Path) -> str:
        digest = hashlib.sha256()
        with subprocess.Popen([self._bcftools, "view", result], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith(b"##"):
                    digest.update(line)
        if process.returncode:
            raise RuntimeError(f"bcftools cannot read {result}")
        return digest.hexdigest()


def emptied(folder: Path) -> Path:
    """The folder, new."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
