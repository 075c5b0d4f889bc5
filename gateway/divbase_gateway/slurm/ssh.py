"""The runner that reaches SLURM's commands through sshd: one connection, few channels, a time limit on everything.
The only module that imports paramiko; it knows nothing of SLURM."""

from __future__ import annotations

import secrets
import select
import shlex
import socket
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import paramiko
import structlog

from divbase_gateway.slurm.runners import Completed, DirectoryUnavailable, RunnerUnavailable, unwritable

log = structlog.get_logger()

_CHANNELS = 8
"""At once; sshd's MaxSessions is 10 by default, and one more channel is the SFTP session."""

_KEEPALIVE_S = 15
_DEAD_AFTER_MS = 45_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_FILES_S = 30.0
_CHUNK = 65536
_LOST = (paramiko.SSHException, OSError, EOFError)


@dataclass(frozen=True)
class Login:
    """How to log in.

    Attributes:
        known_hosts: the pinned keys of the host, in OpenSSH's format; a host that is not in it is refused.
        key_file: the private key; None for a key of the agent.
        agent: whether an agent is asked for keys.
    """

    host: str
    user: str
    known_hosts: Path
    port: int = 22
    key_file: Path | None = None
    agent: bool = False
    connect_s: float = 15.0


class SshRunner:
    """Runs commands on a login node. The connection is made when it is first needed, and again when it is lost."""

    def __init__(self, login: Login, *, channels: int = _CHANNELS, first_pause_s: float = _FIRST_PAUSE_S):
        self._login = login
        self._slots = threading.BoundedSemaphore(channels)
        self._connecting = threading.Lock()
        self._client: paramiko.SSHClient | None = None
        self._files = threading.Lock()
        self._sftp: paramiko.SFTPClient | None = None
        self._first_pause_s = first_pause_s
        self._pause_s = 0.0
        self._not_before = 0.0
        self._last_fault = ""

    @property
    def place(self) -> str:
        return f"{self._login.user}@{self._login.host}:{self._login.port}"

    def close(self) -> None:
        with self._connecting:
            self._drop()

    # --- commands ------------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Completed:
        deadline = time.monotonic() + timeout_s
        mark = secrets.token_hex(8)
        with self._channel(deadline) as channel:
            try:
                channel.exec_command(_shell_line(argv, environment, mark, timeout_s))
                channel.shutdown_write()
                stdout, stderr = _read(channel, deadline)
            except TimeoutError as exc:
                words = f"{argv[0]} on {self.place} did not answer within {timeout_s:g} s."
                raise RunnerUnavailable(words, started=True) from exc
            except _LOST as exc:
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
            channel = self._open(deadline)
            try:
                yield channel
            finally:
                channel.close()
        finally:
            self._slots.release()

    def _open(self, deadline: float) -> paramiko.Channel:
        transport = self._transport()
        try:
            channel = transport.open_session(timeout=max(0.1, deadline - time.monotonic()))
        except _LOST as exc:
            words = f"{self.place} opens no channel: {exc or type(exc).__name__}."
            hint = "The cluster's administrator raises MaxSessions of sshd to 10 or more."
            refused = isinstance(exc, paramiko.ChannelException)
            raise RunnerUnavailable(words, started=False, hint=hint if refused else None) from exc
        channel.settimeout(max(0.1, deadline - time.monotonic()))
        return channel

    # --- the connection ------------------------------------------------------------------------------------------

    def _transport(self) -> paramiko.Transport:
        with self._connecting:
            transport = self._client.get_transport() if self._client else None
            if transport is not None and transport.is_active():
                return transport
            self._drop()
            if time.monotonic() < self._not_before:
                raise RunnerUnavailable(self._last_fault, started=False)
            try:
                self._client = self._connect()
            except RunnerUnavailable as fault:
                self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2 or self._first_pause_s)
                self._not_before, self._last_fault = time.monotonic() + self._pause_s, str(fault)
                raise
            self._pause_s = 0.0
            log.info("ssh.connected", place=self.place)
            made = self._client.get_transport()
            assert made is not None  # noqa: S101 - a client that has connected has one
            made.set_keepalive(_KEEPALIVE_S)
            return made

    def _drop(self) -> None:
        self._sftp = None
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connect(self) -> paramiko.SSHClient:
        login = self._login
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            client.load_system_host_keys(str(login.known_hosts))
            client.connect(
                login.host,
                login.port,
                login.user,
                pkey=_key(login),
                allow_agent=login.agent,
                look_for_keys=False,
                timeout=login.connect_s,
                banner_timeout=login.connect_s,
                auth_timeout=login.connect_s,
                sock=_socket(login),
            )
        except RunnerUnavailable:
            client.close()
            raise
        except _LOST as exc:
            client.close()
            raise self._not_connected(exc) from exc
        return client

    def _not_connected(self, exc: Exception) -> RunnerUnavailable:
        login = self._login
        if isinstance(exc, paramiko.BadHostKeyException):
            return RunnerUnavailable(
                f"The host key of {login.host} has changed, so DivBase did not log in.",
                started=False,
                hint="If the cluster's administrator confirms the new key, the site's operator replaces it in "
                f"{login.known_hosts}; if not, somebody is in between.",
            )
        if isinstance(exc, OSError) and exc.filename is not None:
            return RunnerUnavailable(
                f"DivBase cannot log in at {self.place}: {exc.filename} cannot be read ({exc.strerror}).",
                started=False,
                hint="The site's operator corrects `scheduler.ssh_key_file` or `scheduler.ssh_known_hosts`.",
            )
        if isinstance(exc, paramiko.AuthenticationException):
            return RunnerUnavailable(
                f"{self.place} does not accept the gateway's key.",
                started=False,
                hint="The cluster's administrator adds the public key to authorized_keys of that account, or the "
                "site's operator corrects `scheduler.ssh_user` and `scheduler.ssh_key_file`.",
            )
        if "not found in known_hosts" in str(exc):
            return RunnerUnavailable(
                f"The host key of {login.host} is not in {login.known_hosts}, so DivBase did not log in.",
                started=False,
                hint="The site's operator puts the key there that the cluster's administrator names "
                f"(ssh-keyscan -p {login.port} {login.host} shows it).",
            )
        return RunnerUnavailable(f"{self.place} cannot be reached: {exc or type(exc).__name__}.", started=False)

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
                with suppress(*_LOST):
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
        except _LOST as exc:
            self._sftp = None
            words = f"The file session to {self.place} broke: {exc or type(exc).__name__}."
            raise RunnerUnavailable(words, started=False) from exc
        finally:
            self._files.release()

    def _open_sftp(self) -> paramiko.SFTPClient:
        transport = self._transport()
        if self._sftp is None:
            channel = transport.open_session(timeout=_FILES_S)
            channel.settimeout(_FILES_S)
            channel.invoke_subsystem("sftp")
            self._sftp = paramiko.SFTPClient(channel)
        return self._sftp


def _key(login: Login) -> paramiko.PKey | None:
    """The private key, whatever its kind. paramiko would try the file as each kind and report only the last failure."""
    if login.key_file is None:
        return None
    try:
        key: paramiko.PKey = paramiko.PKey.from_path(login.key_file)
    except (ValueError, TypeError, paramiko.SSHException) as exc:
        words = f"The key file {login.key_file} cannot be used: {exc}."
        hint = "The site's operator names a private key without a passphrase in `scheduler.ssh_key_file`."
        raise RunnerUnavailable(words, started=False, hint=hint) from exc
    return key


def _socket(login: Login) -> socket.socket:
    """A connection whose small messages go out at once, and that ends when the other side is silent for too long."""
    made = socket.create_connection((login.host, login.port), timeout=login.connect_s)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)
    return made


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
