"""The `divbase` program as a process: signals, pipes and exit codes as a shell sees them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.gateway_server import KEY, FakeGateway, Fault, running_gateway

pytestmark = pytest.mark.slow  # real programs

PART = 1 << 16
DIVBASE = [sys.executable, "-m", "divbase_cli.main"]


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway(PART) as one:
        yield one


@pytest.fixture
def environment(gateway: FakeGateway, tmp_path: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("DIVBASE_")},
        "DIVBASE_CONFIG": str(tmp_path / "home" / "config.toml"),
        "DIVBASE_URL": gateway.url,
        "DIVBASE_API_KEY": KEY,
        "DIVBASE_PROJECT": "vole",
    }


def interrupt_when(condition: Callable[[], bool], words: list[str], environment: dict[str, str], sign: int) -> str:
    """Start divbase, send `sign` once `condition` holds, and return its standard error."""
    process = subprocess.Popen(
        [*DIVBASE, *words],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit no Ctrl-C
    )
    try:
        until = time.monotonic() + 20
        while not condition():
            assert process.poll() is None, "divbase ended before it could be interrupted"
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(sign)
        _, error = process.communicate(timeout=5)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (130 if sign == signal.SIGINT else -sign)
    return error


def numbers_of(requests: list[str]) -> list[int]:
    return sorted(int(path.split("?")[0].rsplit("/", 1)[1]) for path in requests)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_upload_resumes(
    gateway: FakeGateway, environment: dict[str, str], tmp_path: Path, sign: int
) -> None:
    """After Ctrl-C or kill -9 the same command sends the parts that S3 lacks, and no other."""
    data = random.Random(1).randbytes(24 * PART)
    (tmp_path / "a.bcf").write_bytes(data)
    words = ["files", "upload", str(tmp_path / "a.bcf")]
    gateway.faults.append(Fault("PUT /s3", "slow", times=999, seconds=0.4, after=6))
    error = interrupt_when(lambda: len(gateway.requests("PUT /s3")) > 8, words, environment, sign)
    if sign == signal.SIGINT:
        assert error == "divbase: Interrupted. Run the same command again: only what is missing is sent.\n"
    time.sleep(0.6)  # the slow requests that the fake had taken are stored by then
    gateway.faults.clear()
    had = set(gateway.uploads["up1"].parts)
    before = len(gateway.requests("PUT /s3"))
    done = subprocess.run([*DIVBASE, *words], env=environment, capture_output=True, text=True, check=True)
    again = [one.path for one in gateway.requests("PUT /s3")[before:]]
    assert 6 <= len(had) < 24
    assert numbers_of(again) == sorted(set(range(1, 25)) - had)
    assert gateway.files["a.bcf"][-1].data == data
    assert "resumed" in done.stdout


def test_interrupted_download_leaves_no_half_file(
    gateway: FakeGateway, environment: dict[str, str], tmp_path: Path
) -> None:
    """After kill -9 no file has the name of the whole one, and the same command finishes it."""
    data = random.Random(2).randbytes(40 << 20)
    gateway.store("a.bcf", data)
    gateway.faults.append(Fault("GET /s3", "slow", times=99, seconds=1.0, after=1))
    words = ["files", "download", "a.bcf", "--to", str(tmp_path)]
    journal = tmp_path / "a.bcf.part.journal"
    interrupt_when(
        lambda: journal.exists() and journal.read_text().count("\n") == 2, words, environment, signal.SIGKILL
    )
    assert not (tmp_path / "a.bcf").exists()
    gateway.faults.clear()
    before = len(gateway.requests("GET /s3"))
    subprocess.run([*DIVBASE, *words], env=environment, capture_output=True, check=True)
    assert len(gateway.requests("GET /s3")) - before == 2
    assert (tmp_path / "a.bcf").read_bytes() == data


def test_interrupted_watch_says_how_to_come_back(gateway: FakeGateway, environment: dict[str, str]) -> None:
    """Ctrl-C stops looking, not the job."""
    gateway.submit({}, {"all_samples": True}, "vole")
    gateway.job_states["job1"] = ["QUEUED"] * 99
    error = interrupt_when(
        lambda: bool(gateway.requests("GET /api/v1/projects/vole/jobs/job1")),
        ["jobs", "watch", "job1"],
        environment,
        signal.SIGINT,
    )
    assert "The job goes on. Come back with: divbase jobs watch job1 -p vole" in error
    assert gateway.requests("cancel") == []


def test_reader_that_goes_away(gateway: FakeGateway, environment: dict[str, str]) -> None:
    """`divbase files cat | head` ends quietly."""
    gateway.store("a", bytes(20 << 20))
    process = subprocess.Popen(
        [*DIVBASE, "files", "cat", "a"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=10) == 141
    assert error == b""


def test_exit_code_of_the_process(environment: dict[str, str]) -> None:
    """The code reaches the shell, with one line on standard error."""
    done = subprocess.run(
        [*DIVBASE, "files", "info", "nope"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "divbase: There is no file nope. List them: divbase files ls\n"


def test_gateway_that_is_not_there(environment: dict[str, str]) -> None:
    """A refused connection is exit code 7, after the bounded retries."""
    with running_gateway() as gone:
        url = gone.url
    done = subprocess.run(
        [*DIVBASE, "whoami", "--url", url], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7
    assert "cannot be reached" in done.stderr
