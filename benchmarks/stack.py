"""The embedded DivBase as a process of its own, in a folder of its own, for the time of a benchmark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from divbase_client import Client

from benchmarks.machine import BIN

_START_S = 90
_STOP_S = 60


@dataclass(frozen=True)
class Stack:
    """A gateway that answers. `pid` is the gateway's process, `folder` the one it keeps everything in."""

    url: str
    key: str
    folder: Path
    pid: int

    def client(self) -> Client:
        return Client(self.url, self.key, timeout=120)

    def environment(self, project: str) -> dict[str, str]:
        """For the command line: this gateway, this project, and no configuration of the user's own."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("DIVBASE_")}
        return own | {
            "DIVBASE_CONFIG": str(self.folder / "no-config.toml"),
            "DIVBASE_URL": self.url,
            "DIVBASE_API_KEY": self.key,
            "DIVBASE_PROJECT": project,
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def s3(self) -> tuple[str, str, str]:
        """Endpoint, access key and secret key of the stack's S3 server."""
        credentials = json.loads((self.folder / "s3" / "keys.json").read_text())["identities"][0]["credentials"][0]
        port = json.loads((self.folder / "s3" / "process.json").read_text())["ports"]["s3"]
        return f"http://127.0.0.1:{port}", credentials["accessKey"], credentials["secretKey"]


@contextmanager
def running_stack(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Start the stack and stop it at the end; a second start on the folder finds the data of the first.

    Args:
        settings: more `DIVBASE_…` variables.

    Raises:
        RuntimeError: it did not come up; the message ends with its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = {name: value for name, value in os.environ.items() if not name.startswith("DIVBASE_")}
    log = folder / "gateway.log"
    with log.open("a") as output:
        process = subprocess.Popen(
            [str(BIN / "divbase-gateway"), "up", "--folder", str(folder), "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=own | dict(settings or {}),
            start_new_session=True,
        )
    try:
        url = _address(process, folder / "port", log)
        yield Stack(url, (folder / "admin.key").read_text().strip(), folder, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def say(words: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


def _address(process: subprocess.Popen[bytes], port_file: Path, log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if port_file.is_file() and _answers(url := f"http://127.0.0.1:{port_file.read_text().strip()}"):
            return url
        time.sleep(0.1)
    raise RuntimeError(f"DivBase did not come up:\n{log.read_text()[-2000:]}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/api/v1/ready", timeout=10) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
