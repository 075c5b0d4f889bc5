"""The gateway's end of the pyslurm process: one request at a time, a time limit on each, and a new process after one
that hung, died or spoke nonsense. What the requests mean is not known here."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from divbase_gateway.slurm.runners import RunnerUnavailable

log = structlog.get_logger()

WORKER = Path(__file__).with_name("pyslurm_worker.py")

_START_S = 30.0
_REAP_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_CHUNK = 65536
_WORDS = 300

_HINT = (
    "The site's operator installs pyslurm of the cluster's own SLURM release for the Python that "
    "`scheduler.pyslurm_python` names, checks `scheduler.slurm_conf`, or chooses another `scheduler.kind`."
)


def worker_command(python: str) -> list[str]:
    """The command of the worker on this Python: nothing from the environment or the working directory is imported."""
    return [python, "-I", "-X", "utf8", str(WORKER)]


class AnsweredWithError(Exception):
    """The worker answered, and the answer is an error. `kind`: `invalid`, `slurm` or `fault` (see the worker)."""

    def __init__(self, kind: str, words: str):
        super().__init__(words)
        self.kind = kind


class PyslurmProcess:
    """Starts the worker when it is first needed. May be used by several threads; they wait for each other.

    Args:
        command: what starts the worker, wherever it is, with this process's pipes as its standard streams.
        environment: all the variables that it gets.
        start_s: seconds that it may take to load pyslurm.
        first_pause_s: seconds after a fault in which no new worker is started; doubled by every further fault.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        start_s: float = _START_S,
        first_pause_s: float = _FIRST_PAUSE_S,
    ):
        self._command = list(command)
        self._environment = dict(environment)
        self._start_s = start_s
        self._first_pause_s = first_pause_s
        self._turn = threading.Lock()
        self._child: _Child | None = None
        self._number = 0
        self._pause_s = 0.0
        self._not_before = 0.0
        self._last_fault: RunnerUnavailable | None = None

    def close(self) -> None:
        """End the worker. A request under way loses its answer."""
        child = self._child
        if child is None:
            return
        child.end()
        with self._turn:  # whoever waits for an answer sees the end of it first
            if self._child is child:
                child.close()
                self._child = None

    def start(self, limit_s: float) -> None:
        """Have a worker that has loaded pyslurm, which takes its time.

        Raises:
            RunnerUnavailable: there is none, and nothing was asked.
        """
        with self._turn_within(limit_s):
            self._ready()

    def ask(self, method: str, params: Mapping[str, Any], limit_s: float) -> Any:
        """The result of one request.

        Raises:
            AnsweredWithError: the worker's word for what went wrong.
            RunnerUnavailable: no answer; `started` says whether the worker may have acted on the request.
        """
        with self._turn_within(limit_s):
            child = self._ready()
            answer = self._exchange(child, method, params, limit_s)
        if "error" in answer:
            raise AnsweredWithError(answer["error"]["kind"], answer["error"]["words"])
        return answer["result"]

    @contextmanager
    def _turn_within(self, limit_s: float) -> Iterator[None]:
        if not self._turn.acquire(timeout=limit_s):
            raise RunnerUnavailable(f"The pyslurm process was busy for {limit_s:g} s.", started=False)
        try:
            yield
        finally:
            self._turn.release()

    def _exchange(self, child: _Child, method: str, params: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        self._number += 1
        request = {"id": self._number, "method": method, "params": dict(params), "limit_s": limit_s}
        try:
            answer = child.exchange(request, limit_s)
        except _NoAnswer as exc:
            raise self._given_up(child, f"The pyslurm process {exc} when asked for {method}", started=exc.sent) from exc
        self._pause_s = 0.0
        return answer

    def _ready(self) -> _Child:
        """The worker that runs, or a new one that has loaded pyslurm."""
        if self._child is not None and not self._child.has_ended():
            return self._child
        if self._child is not None:  # between two requests, so nobody's answer is lost
            log.warning("pyslurm.gone", error=self._child.last_words())
            self._child.end()
            self._child.close()
            self._child = None
        if self._last_fault is not None and time.monotonic() < self._not_before:
            raise RunnerUnavailable(self._last_fault.message, started=False, hint=self._last_fault.hint)
        try:
            child = _Child(self._command, self._environment)
        except OSError as exc:
            words = f"{self._command[0]} cannot be run: {exc.strerror}."
            raise self._paused(RunnerUnavailable(words, started=False, hint=_HINT)) from exc
        try:
            greeting = child.exchange(None, self._start_s)
        except _NoAnswer as exc:
            words = f"The pyslurm process {exc} while it loaded pyslurm"
            raise self._given_up(child, words, started=False, hint=_HINT) from exc
        if "error" in greeting:
            words = f"pyslurm cannot be loaded by {self._command[0]}: {greeting['error']['words']}"
            raise self._given_up(child, words, started=False, hint=_HINT)
        log.info("pyslurm.started", version=greeting["result"]["pyslurm"])
        self._child = child
        return child

    def _given_up(self, child: _Child, words: str, *, started: bool, hint: str | None = None) -> RunnerUnavailable:
        child.end()
        said = child.last_words()
        child.close()
        self._child = None
        return self._paused(RunnerUnavailable(f"{words}{': ' + said if said else ''}.", started=started, hint=hint))

    def _paused(self, fault: RunnerUnavailable) -> RunnerUnavailable:
        self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2 or self._first_pause_s)
        self._not_before, self._last_fault = time.monotonic() + self._pause_s, fault
        log.warning("pyslurm.ended", error=fault.message, pause_s=self._pause_s)
        return fault


class _NoAnswer(Exception):
    """`sent`: the request went out whole, so that it may have been acted on."""

    def __init__(self, words: str, *, sent: bool):
        super().__init__(words)
        self.sent = sent


class _Child:
    """One process, in a group of its own, and the pipes to it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, env=dict(environment), bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr  # noqa: S101, PT018 - asked for
        self._requests, self._answers, self._errors = self._process.stdin, self._process.stdout, self._process.stderr
        os.set_blocking(self._requests.fileno(), False)
        os.set_blocking(self._errors.fileno(), False)
        self._said = b""

    def exchange(self, request: Mapping[str, Any] | None, limit_s: float) -> dict[str, Any]:
        """Send one request, or none, and read one line; the line must carry the request's id, or 0.

        Raises:
            _NoAnswer
        """
        self._listen()
        self._said = b"" if request else self._said  # what was said before has nothing to do with it
        unsent = json.dumps(request).encode() + b"\n" if request else b""
        number = request["id"] if request else 0
        deadline = time.monotonic() + limit_s
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            selector.register(self._errors, selectors.EVENT_READ)
            if unsent:
                selector.register(self._requests, selectors.EVENT_WRITE)
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                ready = selector.select(max(0.0, left))
                if not ready or left <= 0:  # one that only talks is out of time as well
                    raise _NoAnswer(f"did not answer within {limit_s:g} s", sent=not unsent)
                for key, _ in ready:
                    if key.fileobj is self._answers:
                        received += self._read(sent=not unsent)
                    elif key.fileobj is self._errors:
                        if not self._listen():
                            selector.unregister(self._errors)
                    else:
                        unsent = self._write(unsent)
                        if not unsent:
                            selector.unregister(self._requests)
        return _checked(bytes(received), number, sent=not unsent)

    def _read(self, *, sent: bool) -> bytes:
        chunk = os.read(self._answers.fileno(), _CHUNK)
        if not chunk:
            raise _NoAnswer("ended", sent=sent)
        return chunk

    def _write(self, unsent: bytes) -> bytes:
        try:
            return unsent[os.write(self._requests.fileno(), unsent[:_CHUNK]) :]
        except OSError as exc:
            raise _NoAnswer("ended", sent=False) from exc

    def has_ended(self) -> bool:
        """Whether it ended by itself; its number is kept until `close`, so that `end` reaches nobody else."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> None:
        """End it, whatever it does, and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of a process that was ended, when nobody waits for its answer any more."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_S)
        for pipe in (self._requests, self._answers, self._errors):
            with suppress(OSError):
                pipe.close()

    def last_words(self) -> str:
        """What it, or libslurm in it, said last on standard error, on one line."""
        self._listen()
        return " ".join(self._said.decode(errors="replace").split())[-_WORDS:].rstrip(".")

    def _listen(self) -> bool:
        """Read what there is on standard error and keep the end of it; False where no more will come."""
        try:
            chunk = os.read(self._errors.fileno(), _CHUNK)  # as much as a pipe holds
        except BlockingIOError:
            return True
        self._said = (self._said + chunk)[-4 * _WORDS :]
        return bool(chunk)


def _checked(line: bytes, number: int, *, sent: bool) -> dict[str, Any]:
    try:
        answer = json.loads(line)
        in_order = answer["id"] == number and ("result" in answer or {"kind", "words"} <= set(answer["error"]))
    except (ValueError, KeyError, TypeError, IndexError) as exc:
        raise _NoAnswer("spoke nonsense", sent=sent) from exc
    if not in_order:
        raise _NoAnswer("answered something else", sent=sent)
    return dict(answer)
