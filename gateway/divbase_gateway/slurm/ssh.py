"""The runner that reaches SLURM's commands through sshd: one connection, few channels, a time limit on everything.
Only the modules called `ssh…` import paramiko; they know nothing of SLURM."""

from __future__ import annotations

import secrets
import select
import shlex
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath

import paramiko
import structlog

from divbase_gateway.slurm.runners import Completed, DirectoryUnavailable, RunnerUnavailable, unwritable
from divbase_gateway.slurm.ssh_connection import FIRST_PAUSE_S, LOST, Connection, Login
from divbase_gateway.slurm.ssh_workers import NoPython, Request, Workers

log = structlog.get_logger()

COMMANDS_AT_ONCE = 4
SUBMISSIONS_AT_ONCE = 4
"""sshd's MaxSessions is 10 by default, and one more channel is the SFTP session."""

_WITHOUT_WORKERS_S = 600.0
_FILES_S = 30.0
_CHUNK = 65536


class SshRunner:
    """Runs commands on a login node. The connection is made when it is first needed, and again when it is lost."""

    def __init__(self, login: Login, *, first_pause_s: float = FIRST_PAUSE_S):
        self._connection = Connection(login, first_pause_s)
        self._slots = threading.BoundedSemaphore(COMMANDS_AT_ONCE)
        self._workers = Workers(self._connection, SUBMISSIONS_AT_ONCE)
        self._workers_from = 0.0
        self._files = threading.Lock()
        self._sftp: paramiko.SFTPClient | None = None

    @property
    def place(self) -> str:
        return self._connection.place

    def close(self) -> None:
        self._connection.close()

    # --- commands ------------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Completed:
        deadline = time.monotonic() + timeout_s
        mark = secrets.token_hex(8)
        with self._channel(deadline) as channel:
            try:
                with self._connection.answering(channel, deadline):
                    channel.exec_command(_shell_line(argv, environment, mark, timeout_s))
                    channel.shutdown_write()
                stdout, stderr = _read(channel, deadline)
            except TimeoutError as exc:
                words = f"{argv[0]} on {self.place} did not answer within {timeout_s:g} s."
                raise RunnerUnavailable(words, started=True) from exc
            except LOST as exc:
                words = f"The connection to {self.place} broke while {argv[0]} ran: {exc or type(exc).__name__}."
                raise RunnerUnavailable(words, started=True) from exc
        return self._completed(argv[0], mark, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def _completed(self, command: str, mark: str, stdout: str, stderr: str) -> Completed:
        """What stands between the marks. Without the second one the answer is cut short, and half a list is none."""
        _, begun, rest = stdout.partition(f"{mark} begin\n")
        body, ended, after = rest.rpartition(f"\n{mark} end ")
        status = after.split("\n", 1)[0].strip()
        if not begun or not ended or not status.isdecimal():
            said = " ".join(stderr.split())[-300:] or "nothing was said"
            words = f"The answer of {command} on {self.place} was cut short: {said}."
            raise RunnerUnavailable(words, started=True)
        if int(status) in (124, 137):  # as timeout(1) ends
            raise RunnerUnavailable(f"{command} on {self.place} did not answer in time.", started=True)
        return Completed(int(status), body, stderr)

    @contextmanager
    def _channel(self, deadline: float) -> Iterator[paramiko.Channel]:
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise RunnerUnavailable(f"All channels to {self.place} are busy.", started=False)
        try:
            channel = self._connection.open(deadline)
            try:
                yield channel
            finally:
                channel.close()
        finally:
            self._slots.release()

    # --- submissions ---------------------------------------------------------------------------------------------

    def run_beside(
        self,
        path: PurePosixPath,
        files: Mapping[str, bytes],
        argv: Sequence[str],
        environment: Mapping[str, str],
        timeout_s: float,
    ) -> Completed:
        """By a worker on the login node; where it cannot run, by the file session and a command."""
        if time.monotonic() >= self._workers_from:
            try:
                return self._workers.ask(Request(path, files, argv, environment, timeout_s))
            except NoPython as exc:
                log.warning("ssh.no_worker", place=self.place, error=str(exc))
                self._workers_from = time.monotonic() + _WITHOUT_WORKERS_S
        self.put_directory(path, files)
        return self.run(argv, environment, timeout_s)

    # --- directories ---------------------------------------------------------------------------------------------

    def put_directory(self, path: PurePosixPath, files: Mapping[str, bytes]) -> None:
        with self._session() as sftp:
            try:
                sftp.mkdir(str(path), 0o700)
            except OSError as exc:
                raise self._file_fault(path, exc) from exc
            try:
                for name, content in files.items():
                    _write_private(sftp, str(path / name), content)
            except OSError as exc:
                with suppress(*LOST):
                    _remove_tree(sftp, str(path))
                raise self._file_fault(path, exc) from exc

    def read_tail(self, path: PurePosixPath, max_bytes: int) -> bytes:
        with self._session() as sftp:
            try:
                with sftp.open(str(path), "rb") as file:
                    size = file.stat().st_size or 0
                    file.seek(max(0, size - max_bytes))
                    return bytes(file.read(max_bytes))
            except FileNotFoundError:
                return b""
            except OSError as exc:
                raise self._file_fault(path, exc) from exc

    def remove_directory(self, path: PurePosixPath) -> None:
        with self._session() as sftp:
            try:
                _remove_tree(sftp, str(path))
            except FileNotFoundError:
                return
            except OSError as exc:
                raise self._file_fault(path, exc) from exc

    def _file_fault(self, path: PurePosixPath, exc: OSError) -> DirectoryUnavailable | OSError:
        """Ours for what the server said of the file; what the connection said is `_session`'s matter."""
        return exc if isinstance(exc, TimeoutError | ConnectionError) else unwritable(path, self.place, exc)

    @contextmanager
    def _session(self) -> Iterator[paramiko.SFTPClient]:
        """The SFTP session, one user at a time: paramiko mixes up answers of two threads."""
        if not self._files.acquire(timeout=_FILES_S):
            raise RunnerUnavailable(f"The file session to {self.place} is busy.", started=False)
        try:
            yield self._open_sftp()
        except DirectoryUnavailable:
            raise
        except LOST as exc:
            if self._sftp is not None:
                self._sftp.close()
            words = f"The file session to {self.place} broke: {exc or type(exc).__name__}."
            raise RunnerUnavailable(words, started=False) from exc
        finally:
            self._files.release()

    def _open_sftp(self) -> paramiko.SFTPClient:
        if self._sftp is None or self._sftp.get_channel().closed:
            deadline = time.monotonic() + _FILES_S
            channel = self._connection.open(deadline)
            with self._connection.answering(channel, deadline):
                channel.invoke_subsystem("sftp")
                self._sftp = paramiko.SFTPClient(channel)
        self._sftp.get_channel().settimeout(_FILES_S)
        return self._sftp


def _shell_line(argv: Sequence[str], environment: Mapping[str, str], mark: str, timeout_s: float) -> str:
    """One line for whatever shell the account has. sshd drops variables, so env sets them; the marks tell the answer
    from what login files print; timeout ends the command if nobody waits for it any more."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    command = shlex.join(["timeout", "-k", "5", str(int(timeout_s) + 5), "env", "-i", *variables, *argv])
    script = f"printf '\\n%s begin\\n' {mark}; {command} </dev/null; printf '\\n%s end %d\\n' {mark} $?"
    return f"exec /bin/sh -c {shlex.quote(script)}"


def _read(channel: paramiko.Channel, deadline: float) -> tuple[bytes, bytes]:
    """Both outputs to their ends, read as they come, so that neither fills up and stops the command."""
    stdout, stderr = bytearray(), bytearray()
    signal_fd = channel.fileno()
    while True:
        finished = channel.eof_received or channel.closed
        while channel.recv_ready():
            stdout += channel.recv(_CHUNK)
        while channel.recv_stderr_ready():
            stderr += channel.recv_stderr(_CHUNK)
        if finished and not channel.recv_ready() and not channel.recv_stderr_ready():
            return bytes(stdout), bytes(stderr)
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([signal_fd], [], [], left)[0]:
            raise TimeoutError


def _write_private(sftp: paramiko.SFTPClient, path: str, content: bytes) -> None:
    with sftp.open(path, "wx") as file:
        file.chmod(0o600)
        file.set_pipelined(True)
        file.write(content)


def _remove_tree(sftp: paramiko.SFTPClient, path: str) -> None:
    for entry in sftp.listdir_attr(path):
        inner = f"{path}/{entry.filename}"
        if stat.S_ISDIR(entry.st_mode or 0):
            _remove_tree(sftp, inner)
        else:
            sftp.remove(inner)
    sftp.rmdir(path)
