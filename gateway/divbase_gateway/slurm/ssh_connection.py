"""One connection to the login node: pinned host keys, one key, a time limit on every step, and pauses after faults.
It opens channels and knows nothing of what they are used for."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paramiko
import structlog

from divbase_gateway.slurm.runners import RunnerUnavailable

log = structlog.get_logger()
logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what it has to say, with its traceback, is raised as well

LOST = (paramiko.SSHException, OSError, EOFError)
"""What paramiko raises when the connection or a channel is not there any more."""

FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_KEEPALIVE_S = 15
_DEAD_AFTER_MS = 45_000
_ANSWER_S = 30.0
_REFUSED_FOR_S = 2.0


@dataclass(frozen=True)
class Login:
    """How to log in.

    Attributes:
        known_hosts: the pinned keys of the host, in OpenSSH's format; a host that is not in it is refused.
        key_file: the private key; None for a key of the agent.
        agent: whether an agent is asked for keys.
        answer_s: seconds within which sshd answers a request for a channel; after that the connection is given up.
    """

    host: str
    user: str
    known_hosts: Path
    port: int = 22
    key_file: Path | None = None
    agent: bool = False
    connect_s: float = 15.0
    answer_s: float = _ANSWER_S


class Connection:
    """Made when it is first needed, and again when it is lost. May be used by several threads at once."""

    def __init__(self, login: Login, first_pause_s: float = FIRST_PAUSE_S):
        self._login = login
        self._connecting = threading.Lock()
        self._client: paramiko.SSHClient | None = None
        self._first_pause_s = first_pause_s
        self._pause_s = 0.0
        self._not_before = 0.0
        self._last_fault: RunnerUnavailable | None = None

    @property
    def place(self) -> str:
        return f"{self._login.user}@{self._login.host}:{self._login.port}"

    def close(self) -> None:
        with self._connecting:
            self._drop()

    # --- channels ------------------------------------------------------------------------------------------------

    def open(self, deadline: float) -> paramiko.Channel:
        """A new session channel, by `deadline` on the monotonic clock; its reads and writes end then too.

        Raises:
            RunnerUnavailable: `started` is False.
        """
        refused_until = min(deadline, time.monotonic() + _REFUSED_FOR_S)
        while True:
            transport = self._transport()
            patience = min(self._login.answer_s, _left(deadline))
            try:
                channel = transport.open_session(timeout=patience)
                break
            except paramiko.ChannelException as exc:  # sshd counts a session until its last process is gone
                if time.monotonic() > refused_until:
                    raise self._no_channel(exc) from exc
                time.sleep(0.05)
            except LOST as exc:
                if patience == self._login.answer_s:
                    transport.close()  # it is as good as dead, whatever TCP says: the next one gets a new connection
                raise self._no_channel(exc) from exc
        channel.settimeout(_left(deadline))
        return channel

    @contextmanager
    def answering(self, channel: paramiko.Channel, deadline: float) -> Iterator[None]:
        """Requests on a channel have no time limit in paramiko: without an answer the connection is given up."""
        left, patience = _left(deadline), self._login.answer_s
        limit = threading.Timer(
            min(left, patience), channel.close if left < patience else channel.get_transport().close
        )
        limit.daemon = True
        limit.start()
        try:
            yield
        finally:
            limit.cancel()

    def _no_channel(self, exc: Exception) -> RunnerUnavailable:
        words = f"{self.place} opens no channel: {exc or type(exc).__name__}."
        hint = "The cluster's administrator raises MaxSessions of sshd to 10 or more."
        refused = isinstance(exc, paramiko.ChannelException)
        return RunnerUnavailable(words, started=False, hint=hint if refused else None)

    # --- connecting ----------------------------------------------------------------------------------------------

    def _transport(self) -> paramiko.Transport:
        with self._connecting:
            transport = self._client.get_transport() if self._client else None
            if transport is not None and transport.is_active():
                return transport
            self._drop()
            if self._last_fault is not None and time.monotonic() < self._not_before:
                raise RunnerUnavailable(self._last_fault.message, started=False, hint=self._last_fault.hint)
            try:
                self._client = self._connect()
            except RunnerUnavailable as fault:
                self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2 or self._first_pause_s)
                self._not_before, self._last_fault = time.monotonic() + self._pause_s, fault
                raise
            self._pause_s = 0.0
            log.info("ssh.connected", place=self.place)
            made = self._client.get_transport()
            assert made is not None  # noqa: S101 - a client that has connected has one
            made.set_keepalive(_KEEPALIVE_S)
            return made

    def _drop(self) -> None:
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
        except LOST as exc:
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
        if "No authentication methods available" in str(exc):
            return RunnerUnavailable(
                f"DivBase has no key to log in with at {self.place}.",
                started=False,
                hint="The site's operator names one in `scheduler.ssh_key_file`, or sets `scheduler.ssh_agent` and "
                "runs the gateway with the `SSH_AUTH_SOCK` of an agent that holds one.",
            )
        return RunnerUnavailable(f"{self.place} cannot be reached: {exc or type(exc).__name__}.", started=False)


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())


def _key(login: Login) -> paramiko.PKey | None:
    """The private key, whatever its kind. paramiko would try the file as each kind and report only the last failure."""
    if login.key_file is None:
        return None
    status = login.key_file.stat()
    if status.st_uid == os.getuid() and status.st_mode & 0o077:  # as OpenSSH judges it
        words = f"The key file {login.key_file} can be read by others than its owner, so DivBase does not use it."
        raise RunnerUnavailable(words, started=False, hint=f"The site's operator runs: chmod 600 {login.key_file}")
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
