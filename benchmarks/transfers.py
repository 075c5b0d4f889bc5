"""Upload and download rates of DivBase's client and command line against rclone, on one S3 server and one bucket.

Each contender moves the same files under keys of its own, in turn, several times; the data is random, so that nothing
on the way can compress it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divbase_client.transfers import Failed
from divbase_client.uploads import Source

from benchmarks.figures import Section, Table, spread
from benchmarks.machine import BIN, settle
from benchmarks.stack import Stack, running_stack, say

_MIB = 1 << 20
_PROJECT = "transfers"
_RCLONE_MATCHED = ["--s3-upload-concurrency", "8", "--s3-chunk-size", "32Mi", "--s3-upload-cutoff", "32Mi"]
_RCLONE_MATCHED += ["--multi-thread-streams", "8", "--multi-thread-cutoff", "16Mi", "--multi-thread-chunk-size", "16Mi"]

BASE, MATCHED, LIBRARY, COMMAND = "rclone", "rclone, matched", "divbase_client", "divbase (process)"

Move = Callable[[Path, str], float]
"""Moves a folder to or from the prefix and returns the CPU seconds that it took."""


@dataclass(frozen=True)
class Load:
    """What is moved: `count` files of `size` bytes."""

    title: str
    count: int
    size: int

    @property
    def bytes(self) -> int:
        return self.count * self.size


@dataclass(frozen=True)
class Contender:
    title: str
    upload: Move
    download: Move


def measure(folder: Path, quick: bool) -> Section:
    """Run it in `folder`, which takes some 30 times the largest load (1 GiB; quick: 64 MiB)."""
    loads = [
        Load("one large file", 1, 64 * _MIB if quick else 1024 * _MIB),
        Load("small files", 20 if quick else 200, _MIB),
    ]
    raw: dict[str, Any] = {}
    tables = []
    with running_stack(folder / "stack", {"DIVBASE_SERVER__LOG_LEVEL": "warning"}) as stack:
        with stack.client() as client:
            bucket = client.projects.create(_PROJECT).bucket
        for load in loads:
            times = _race(load, contenders(stack, bucket), folder, 2 if quick else 3)
            raw[load.title] = {"bytes": load.bytes, "files": load.count, "times": times}
            tables += [_table(load, direction, times[direction]) for direction in times]
    words = (
        "Files of random bytes to and from a SeaweedFS S3 server on the same machine, into a bucket with versions; all "
        "check checksums.",
        "`rclone` with its defaults, and with the number of connections that DivBase uses and parts of 32 MiB "
        "(DivBase: 8) "
        f"(`{' '.join(_RCLONE_MATCHED)}`).",
        "The server, the client and the gateway share the cores, so the rates say less than the ratios: above 1 is "
        "faster than rclone with its defaults in the same round. CPU is the client's own, without the server's.",
    )
    return Section("transfers", "Transfers against rclone", words, tuple(tables), raw)


def contenders(stack: Stack, bucket: str) -> list[Contender]:
    """Those that race; the first is what the others are compared with."""
    default, matched = Rclone(stack, bucket, []), Rclone(stack, bucket, _RCLONE_MATCHED)
    library, command = Library(stack), CommandLine(stack)
    return [
        Contender(BASE, default.upload, default.download),
        Contender(MATCHED, matched.upload, matched.download),
        Contender(LIBRARY, library.upload, library.download),
        Contender(COMMAND, command.upload, command.download),
    ]


# --- the contenders ----------------------------------------------------------------------------------------------


class Rclone:
    """rclone as a process, with a remote that is described by its environment only."""

    def __init__(self, stack: Stack, bucket: str, options: list[str]):
        endpoint, access, secret = stack.s3()
        remote = {"TYPE": "s3", "PROVIDER": "SeaweedFS", "ENDPOINT": endpoint, "FORCE_PATH_STYLE": "true"}
        remote |= {"ACCESS_KEY_ID": access, "SECRET_ACCESS_KEY": secret, "NO_CHECK_BUCKET": "true"}
        self._environment = os.environ | {f"RCLONE_CONFIG_STORE_{name}": value for name, value in remote.items()}
        self._environment |= {"RCLONE_CONFIG": os.devnull}
        self._command = [str(BIN / "rclone"), "copy", "--transfers", "4", *options]
        self._bucket = bucket

    def upload(self, folder: Path, prefix: str) -> float:
        return run([*self._command, str(folder), f"store:{self._bucket}/{prefix}"], self._environment)

    def download(self, folder: Path, prefix: str) -> float:
        return run([*self._command, f"store:{self._bucket}/{prefix}", str(folder)], self._environment)


class Library:
    """`divbase_client` in this process, which does nothing else meanwhile."""

    def __init__(self, stack: Stack):
        self._stack = stack

    def upload(self, folder: Path, prefix: str) -> float:
        before = time.process_time()
        with self._stack.client() as client:
            sources = [Source(path, f"{prefix}/{path.name}") for path in sorted(folder.iterdir())]
            _require(list(client.files.upload_all(_PROJECT, sources)))
        return time.process_time() - before

    def download(self, folder: Path, prefix: str) -> float:
        before = time.process_time()
        with self._stack.client() as client:
            keys = [file.key for file in client.files.list(_PROJECT, prefix=f"{prefix}/")]
            wanted = [client.files.want(_PROJECT, key, folder) for key in keys]
            _require(list(client.files.download_all(wanted)))
        return time.process_time() - before


class CommandLine:
    """`divbase` as a process, its start included."""

    def __init__(self, stack: Stack):
        self._environment = stack.environment(_PROJECT)

    def upload(self, folder: Path, prefix: str) -> float:
        files = [str(path) for path in sorted(folder.iterdir())]
        return run([str(BIN / "divbase"), "files", "upload", "--prefix", prefix, *files], self._environment)

    def download(self, folder: Path, prefix: str) -> float:
        command = [str(BIN / "divbase"), "files", "download", f"{prefix}/*", "--to", str(folder)]
        return run(command, self._environment)


def run(command: list[str], environment: dict[str, str]) -> float:
    """CPU seconds of a command.

    Raises:
        RuntimeError: it failed; with its own words.
    """
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    words = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {words.decode(errors='replace')[-2000:]}")
    return usage.ru_utime + usage.ru_stime


def _require(outcomes: list[Any]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Failed):
            raise outcome.error


# --- the race ----------------------------------------------------------------------------------------------------


def _race(load: Load, field: list[Contender], folder: Path, rounds: int) -> dict[str, Any]:
    """direction -> contender -> [[seconds, CPU seconds], …]; the first round is not counted."""
    source = _write(load, folder / "source")
    times: dict[str, Any] = {"upload": defaultdict(list), "download": defaultdict(list)}
    for number in range(rounds + 1):
        for place in range(len(field)):
            contender = field[(place + number) % len(field)]
            prefix = f"{load.title.replace(' ', '-')}/{number}/{contender.title.split(' ')[0]}-{field.index(contender)}"
            sent = _timed(contender.upload, source, prefix)
            target = folder / "target"
            target.mkdir()
            received = _timed(contender.download, target, prefix)
            _check(source, target)
            shutil.rmtree(target)
            say(f"{load.title}, round {number}, {contender.title}: up {sent[0]:.2f} s, down {received[0]:.2f} s")
            if number:
                times["upload"][contender.title].append(sent)
                times["download"][contender.title].append(received)
    shutil.rmtree(source)
    return times


def _timed(move: Move, folder: Path, prefix: str) -> tuple[float, float]:
    settle()
    begun = time.perf_counter()
    cpu = move(folder, prefix)
    return time.perf_counter() - begun, cpu


def _write(load: Load, folder: Path) -> Path:
    folder.mkdir()
    for number in range(load.count):
        with (folder / f"file-{number:03}.txt").open("wb") as file:
            for start in range(0, load.size, 16 * _MIB):
                file.write(os.urandom(min(16 * _MIB, load.size - start)))
    return folder


def _check(source: Path, target: Path) -> None:
    """Everything arrived; the contents are the contenders' own business, and each checks them."""
    there = {path.name: path.stat().st_size for path in target.iterdir()}
    meant = {path.name: path.stat().st_size for path in source.iterdir()}
    if there != meant:
        raise RuntimeError(f"{len(meant)} files were to arrive in {target}, {len(there)} did")


def _table(load: Load, direction: str, times: dict[str, list[tuple[float, float]]]) -> Table:
    base = [seconds for seconds, _ in times[BASE]]
    rows = []
    for contender in sorted(times, key=[BASE, MATCHED, LIBRARY, COMMAND].index):
        rates = spread([load.bytes / 1e6 / seconds for seconds, _ in times[contender]])
        cpu = spread([used * (1 << 30) / load.bytes for _, used in times[contender]])
        ratio = spread([theirs / seconds for theirs, (seconds, _) in zip(base, times[contender], strict=True)])
        rows.append((contender, str(rates), str(cpu), "1" if contender == BASE else str(ratio)))
    title = f"{direction.capitalize()}, {load.title}: {load.count} x {load.size // _MIB} MiB"
    return Table(title, ("", "MB/s", "CPU s a GiB", "rate against rclone"), tuple(rows))
