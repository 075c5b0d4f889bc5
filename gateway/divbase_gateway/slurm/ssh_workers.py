"""The gateway's end of the processes on the login node that submit (`login_worker.py`): a few of them, started when
they are needed and kept for the next job, each on a channel of its own. What is submitted is not known here."""

from __future__ import annotations

import json
import secrets
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import paramiko

from divbase_gateway.slurm.runners import Completed, DirectoryUnavailable, RunnerUnavailable, unwritable_because
from divbase_gateway.slurm.ssh_connection import LOST, Connection

_SOURCE = Path(__file__).with_name("login_worker.py").read_bytes()
_CHUNK = 65536

_GRACE_S = 5
"""So much later the worker ends a command whose answer nobody waits for any more."""


class NoPython(Exception):
    """The login node has no Python that runs the worker."""


class _Ended(Exception):
    """sshd says that the process is gone, and everything that it had to say was heard."""


@dataclass(frozen=True)
class Request:
    """A directory to be made, with these files in it, and then a command to be run."""

    directory: PurePosixPath
    files: Mapping[str, bytes]
    argv: Sequence[str]
    environment: Mapping[str, str]
    limit_s: float

    def message(self) -> bytes:
        head = {
            "directory": str(self.directory),
            "files": [(name, len(content)) for name, content in self.files.items()],
            "argv": list(self.argv),
            "environment": dict(self.environment),
            "limit_s": self.limit_s + _GRACE_S,
        }
        text = json.dumps(head).encode()
        return b"".join([b"%d\n" % len(text), text, *self.files.values()])


class Workers:
    """At most `most` of them at once; who finds all of them busy waits."""

    def __init__(self, connection: Connection, most: int):
        self._connection = connection
        self._slots = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def ask(self, request: Request) -> Completed:
        """Make the directory and run the command.

        Raises:
            NoPython: there can be no worker; nothing was done.
            DirectoryUnavailable: the command was not run.
            RunnerUnavailable: `started` says whether the command may have been run.
        """
        deadline = time.monotonic() + request.limit_s
        if not self._slots.acquire(timeout=request.limit_s):
            raise RunnerUnavailable(f"All channels to {self._connection.place} are busy.", started=False)
        try:
            return self._ask(request, deadline)
        finally:
            self._slots.release()

    def _ask(self, request: Request, deadline: float) -> Completed:
        worker = self._kept()
        if worker is not None:
            try:
                return self._exchange(worker, request, deadline)
            except RunnerUnavailable as gone:
                if gone.started:
                    raise
        return self._exchange(_Worker(self._connection, deadline), request, deadline)

    def _exchange(self, worker: _Worker, request: Request, deadline: float) -> Completed:
        try:
            answer = worker.exchange(request, deadline)
        except DirectoryUnavailable:
            self._keep(worker)
            raise
        except BaseException:
            worker.close()
            raise
        self._keep(worker)
        return answer

    def _kept(self) -> _Worker | None:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                worker.close()
        return None

    def _keep(self, worker: _Worker) -> None:
        with self._lock:
            self._idle.append(worker)


class _Worker:
    """One process, from its start on. One request at a time."""

    def __init__(self, connection: Connection, deadline: float):
        self._place = connection.place
        self._heard = bytearray()
        self._channel = connection.open(deadline)
        try:
            self._start(connection, deadline)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return not (self._channel.closed or self._channel.eof_received)

    def close(self) -> None:
        self._channel.close()

    def _start(self, connection: Connection, deadline: float) -> None:
        mark = secrets.token_hex(8)
        program = f"import sys; exec(sys.stdin.buffer.read({len(_SOURCE)}))"
        try:
            with connection.answering(self._channel, deadline):
                self._channel.exec_command(f"exec python3 -IS -c {shlex.quote(program)} {len(_SOURCE)} {mark}")
                self._channel.sendall(_SOURCE)
            self._read_until(f"\n{mark}\n".encode(), deadline)
            self._message(deadline)
        except _Ended as exc:
            said = " ".join(self._channel.recv_stderr(_CHUNK).decode(errors="replace").split())[-300:]
            raise NoPython(said or "it ended without a word") from exc
        except TimeoutError as exc:
            words = f"Python on {self._place} did not start in time."
            raise RunnerUnavailable(words, started=False) from exc
        except LOST as exc:
            words = f"The connection to {self._place} broke: {exc or type(exc).__name__}."
            raise RunnerUnavailable(words, started=False) from exc

    def exchange(self, request: Request, deadline: float) -> Completed:
        command, begun = request.argv[0], False
        try:
            self._send(request.message(), deadline)
            first = self._message(deadline)
            if "fault" in first:
                raise unwritable_because(request.directory, self._place, first["fault"])
            begun = True
            last = self._message(deadline)
        except _Ended as exc:
            words = f"The process on {self._place} that was to run {command} ended before it answered."
            raise RunnerUnavailable(words, started=begun) from exc
        except TimeoutError as exc:
            words = f"{command} on {self._place} did not answer within {request.limit_s:g} s."
            raise RunnerUnavailable(words, started=True) from exc
        except LOST as exc:
            words = f"The connection to {self._place} broke while {command} ran: {exc or type(exc).__name__}."
            raise RunnerUnavailable(words, started=True) from exc
        return Completed(last["status"], last["stdout"], last["stderr"])

    def _send(self, message: bytes, deadline: float) -> None:
        self._channel.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            self._channel.sendall(message)
        except TimeoutError:
            raise
        except OSError:
            return  # the channel is closed; what can still be heard says why

    # --- reading -------------------------------------------------------------------------------------------------

    def _message(self, deadline: float) -> dict[str, Any]:
        size = int(self._read_until(b"\n", deadline))
        while len(self._heard) < size:
            self._hear(deadline)
        text = bytes(self._heard[:size])
        del self._heard[:size]
        message: dict[str, Any] = json.loads(text)
        return message

    def _read_until(self, end: bytes, deadline: float) -> bytes:
        """What comes before `end`, which is taken away too."""
        while (at := self._heard.find(end)) < 0:
            self._hear(deadline)
        line = bytes(self._heard[:at])
        del self._heard[: at + len(end)]
        return line

    def _hear(self, deadline: float) -> None:
        """Wait for more. The end of it is sshd's word that the process is gone, else a lost connection."""
        self._channel.settimeout(max(0.1, deadline - time.monotonic()))
        more = self._channel.recv(_CHUNK)
        if more:
            self._heard += more
        elif self._channel.eof_received:
            raise _Ended
        else:
            raise paramiko.SSHException("the connection is lost")
