"""Gateways for the demo, as processes: the embedded one (`divbase-gateway up`), or one with a settings file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo.day import BIN, StepFailed, console, prompt

_START_S = 90


@contextmanager
def embedded(folder: Path, *, keep: bool, path: Path | None = None) -> Iterator[str]:
    """The embedded stack in `folder`, up and answering; its address. At the end it stops, unless all went well and
    `keep` is set.

    Args:
        path: a folder whose programs go before all others.

    Raises:
        StepFailed: it did not come up.
    """
    prompt("divbase-gateway up --port 0 &")
    port_file = folder / "stack" / "port"

    def address() -> str | None:
        return f"http://127.0.0.1:{port_file.read_text().strip()}" if port_file.is_file() else None

    words = ["up", "--folder", str(folder / "stack"), "--port", "0"]
    extra = {"PATH": f"{path}{os.pathsep}{os.environ.get('PATH', '')}"} if path else {}
    with _running(words, folder / "gateway.log", address, keep=keep, extra=extra) as url:
        yield url


@contextmanager
def serving(config: Path, url: str, log: Path, *, keep: bool) -> Iterator[str]:
    """A gateway with the settings in `config`, up and answering at `url`."""
    prompt(f"divbase-gateway serve --config {short(config)} &")
    with _running(["serve", "--config", str(config)], log, lambda: url, keep=keep, extra={}) as answering:
        yield answering


@contextmanager
def _running(
    words: Sequence[str], log: Path, address: Callable[[], str | None], *, keep: bool, extra: Mapping[str, str]
) -> Iterator[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("DIVBASE_")}
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(BIN / "divbase-gateway"), *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**own, **extra},
            start_new_session=True,
        )
    worked = False
    try:
        yield _wait(process, address, log)
        worked = True
    finally:
        if keep and worked:
            console.print(f"\nThis gateway goes on; stop it with: kill {process.pid}", style="bold")
        else:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _wait(process: subprocess.Popen[bytes], address: Callable[[], str | None], log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        url = address()
        if url is not None and _answers(url):
            console.print(f"DivBase answers at {url}; its log is {short(log)}.")
            return url
        time.sleep(0.1)
    raise StepFailed(f"DivBase did not come up:\n{log.read_text()[-2000:]}")


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/api/v1/ready", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def short(path: Path) -> str:
    """The path from here, where it is below here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
