"""An sshd on loopback that really runs commands and serves files, with the faults of a bad day. It knows one key
and one user, which is whoever runs the tests, and nothing of SLURM."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import paramiko
from divbase_gateway.slurm.ssh_connection import Login


@dataclass
class Faults:
    """banner: printed before every command's output, as login files do.
    refuse_auth: no key is good enough.
    drop_at: the connection is cut when this is in what a command prints, once, instead of passing it on.
    frozen_at: "open" or "exec": such a request is not answered, nor what comes after it; TCP itself is well.
    without_python: there is no python3 on the machine.
    max_sessions: channels at once, as sshd's MaxSessions.
    silence_s: seconds before a command is run.
    without_status: the command's output comes, its exit status does not, and the last bytes are lost.
    """

    banner: str = ""
    refuse_auth: bool = False
    drop_at: bytes = b""
    frozen_at: str = ""
    without_python: bool = False
    max_sessions: int = 10
    silence_s: float = 0.0
    without_status: bool = False


@dataclass
class FakeSshd:
    """A server, listening after `start`. `most_sessions` is the highest number of channels that were open at once,
    `processes` are those of all commands, in the order of their start."""

    folder: Path
    faults: Faults = field(default_factory=Faults)
    port: int = 0
    connections: int = 0
    sessions: int = 0
    most_sessions: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._client_key = paramiko.ECDSAKey.generate()
        self._client_key.write_private_key_file(str(self.folder / "key"))
        self._host_key = paramiko.ECDSAKey.generate()
        self._lock = threading.Lock()
        self._transports: list[paramiko.Transport] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._socket = socket.socket()

    def start(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", self.port))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more and cut every connection."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection that there is."""
        for transport in self._transports:
            transport.close()
        self._transports.clear()
        self.sessions = 0

    def change_host_key(self) -> None:
        self._host_key = paramiko.ECDSAKey.generate()

    def login(self, **changes: Any) -> Login:
        """How to log in, with the present host key pinned."""
        known_hosts = self.folder / "known_hosts"
        key = self._host_key
        known_hosts.write_text(f"[127.0.0.1]:{self.port} {key.get_name()} {key.get_base64()}\n")
        given = {"host": "127.0.0.1", "user": "divbase", "known_hosts": known_hosts, "port": self.port}
        return Login(**{**given, "key_file": self.folder / "key", "connect_s": 5.0, **changes})

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(connection)
        transport.add_server_key(self._host_key)
        transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
        self._transports.append(transport)
        self.connections += 1
        with suppress(paramiko.SSHException, EOFError, OSError):
            transport.start_server(server=_Session(self, transport))

    def accepts(self, key: paramiko.PKey) -> bool:
        return not self.faults.refuse_auth and key.get_base64() == self._client_key.get_base64()

    def count(self, change: int) -> bool:
        """Open (+1) or close (-1) a channel; False if there are too many."""
        with self._lock:
            if self.sessions + change > self.faults.max_sessions:
                return False
            self.sessions += change
            self.most_sessions = max(self.most_sessions, self.sessions)
            return True


class _Session(paramiko.ServerInterface):
    def __init__(self, sshd: FakeSshd, transport: paramiko.Transport):
        self._sshd = sshd
        self._transport = transport

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL if self._sshd.accepts(key) else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self._freeze("open")
        allowed = self._sshd.count(+1)
        return paramiko.OPEN_SUCCEEDED if allowed else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._freeze("exec")
        threading.Thread(target=self._run, args=(channel, command.decode()), daemon=True).start()
        return True

    def _freeze(self, request: str) -> None:
        while self._sshd.faults.frozen_at == request and self._transport.is_active():
            time.sleep(0.02)

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        faults = self._sshd.faults
        time.sleep(faults.silence_s)
        if faults.without_python:
            command = command.replace("python3", "/no/such/python3")
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._sshd.processes.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        threading.Thread(target=_pass_input, args=(channel, process), daemon=True).start()
        noise = threading.Thread(target=self._pass_errors, args=(channel, process.stderr), daemon=True)
        noise.start()
        with suppress(OSError, EOFError):
            channel.sendall(faults.banner.encode())
            self._pass_output(channel, process.stdout)
        status = process.wait()
        noise.join()
        with suppress(OSError, EOFError):
            if not faults.without_status:
                channel.send_exit_status(status if status >= 0 else 128 - status)
        self._sshd.count(-1)
        with suppress(OSError, EOFError):
            channel.close()

    def _pass_output(self, channel: paramiko.Channel, output: IO[bytes]) -> None:
        faults, kept = self._sshd.faults, b""
        while more := os.read(output.fileno(), 65536):
            if faults.drop_at and faults.drop_at in more:
                faults.drop_at = b""
                self._transport.close()
            if faults.without_status:
                kept += more
            else:
                channel.sendall(more)
        channel.sendall(kept[:-5])

    def _pass_errors(self, channel: paramiko.Channel, output: IO[bytes]) -> None:
        with suppress(OSError, EOFError):
            channel.sendall_stderr(self._sshd.faults.banner.encode())
            while more := os.read(output.fileno(), 65536):
                channel.sendall_stderr(more)


def _pass_input(channel: paramiko.Channel, process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(OSError, EOFError):
        while more := channel.recv(65536):
            process.stdin.write(more)
            process.stdin.flush()
    with suppress(OSError):
        process.stdin.close()


class _Handle(paramiko.SFTPHandle):
    path = ""

    def stat(self) -> paramiko.SFTPAttributes:
        return paramiko.SFTPAttributes.from_stat(os.stat(self.path))

    def chattr(self, attr: paramiko.SFTPAttributes) -> int:
        paramiko.SFTPServer.set_file_attr(self.path, attr)
        return int(paramiko.SFTP_OK)


class _Files(paramiko.SFTPServerInterface):
    """The machine's files, as they are."""

    def list_folder(self, path: str) -> Any:
        return _answered(lambda: [_attributes(path, name) for name in os.listdir(path)])

    def stat(self, path: str) -> Any:
        return _answered(lambda: paramiko.SFTPAttributes.from_stat(os.stat(path)))

    def lstat(self, path: str) -> Any:
        return _answered(lambda: paramiko.SFTPAttributes.from_stat(os.lstat(path)))

    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> Any:
        return _answered(lambda: os.mkdir(path, attr.st_mode or 0o777))

    def rmdir(self, path: str) -> Any:
        return _answered(lambda: os.rmdir(path))

    def remove(self, path: str) -> Any:
        return _answered(lambda: os.remove(path))

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> Any:
        def opened() -> _Handle:
            file = os.fdopen(os.open(path, flags, 0o666), "wb" if flags & os.O_WRONLY else "rb")
            handle = _Handle(flags)
            handle.path, handle.readfile, handle.writefile = path, file, file
            return handle

        return _answered(opened)


def _attributes(path: str, name: str) -> paramiko.SFTPAttributes:
    return paramiko.SFTPAttributes.from_stat(os.lstat(os.path.join(path, name)), name)


def _answered(act: Callable[[], Any]) -> Any:
    try:
        result = act()
    except OSError as exc:
        return paramiko.SFTPServer.convert_errno(exc.errno)
    return paramiko.SFTP_OK if result is None else result
