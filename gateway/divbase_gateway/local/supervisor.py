"""Runs one job of the embedded scheduler from its folder and writes down how it ended; outlives the gateway.

It is started as a script (`python -IS supervisor.py FOLDER LIMIT WARN GRACE MEMORY`) and must not know the gateway:
only modules that are built in or cheap, because every job waits for them. File descriptor 3 is the job's lock, held
for it.
"""

# ruff: noqa: SIM105 - contextlib would be imported before every job

from __future__ import annotations

import os
import select
import sys
import time

TYPE_CHECKING = False  # type checkers take it for true; `typing` costs too much here

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums of `signal`, which take longer to make than all the rest

LOCK_FD = 3
MARK = "DIVBASE_LOCAL_JOB"
"""The variable in the environment of every process of a job that tells whose it is, wherever it moved itself."""

POLL_S = 0.1
MEMORY_EVERY_S = 1.0
SPARE_MEMORY = 512 << 20
"""Bytes that a job may have beyond twice its own memory: what has run away is ended before the machine is, and an
estimate that is a little off costs nobody a job here, where no one else waits for the memory."""
_STOPPED_BY_US = {"cancel": "CANCELLED", "limit": "TIMEOUT", "told": "NODE_FAIL"}
_REASONS = {
    "cancel": "",
    "limit": "TimeLimit",
    "told": "the supervisor of the job was told to stop, as when the machine shuts down",
}


class Job:
    """The script's process group, its limits (seconds, bytes) and what was done to it."""

    def __init__(self, folder: str, limit_s: float, warn_s: float, grace_s: float, memory: int):
        self.folder = folder
        self.limit_s = limit_s
        self.warn_s = warn_s
        self.grace_s = grace_s
        self.most_memory = 2 * memory + SPARE_MEMORY
        self.out_of_memory = False
        self.weighed_at = 0.0
        self.group = 0
        self.stopped_for = ""
        self.warned = False
        self.kill_at = float("inf")
        self.told = False

    def path(self, name: str) -> str:
        return os.path.join(self.folder, ".job", name)

    def start(self) -> None:
        """Fork the script; it is held back until its group is on disk, so no script ever runs unrecorded."""
        gate_out, gate_in = os.pipe()
        self.group = os.fork()
        if self.group == 0:
            os.close(gate_in)
            _become_script(self.folder, gate_out)
        os.close(gate_out)
        try:
            os.setpgid(self.group, self.group)  # the child does the same; whoever comes first
        except OSError:
            pass  # it did, and went on
        self.started_at = time.time()
        self.begun = time.monotonic()
        overwrite(
            self.path("started.json"),
            f'{{"supervisor": {os.getpid()}, "group": {self.group}, "started_at": {self.started_at:.6f}}}',
        )
        if os.path.exists(self.path("cancel")):
            self.stopped_for = "cancel"  # the script is never let through the gate
            self.kill()
        else:
            os.write(gate_in, b"1")
        os.close(gate_in)

    def signal_group(self, number: int) -> None:
        try:
            os.killpg(self.group, number)
        except (ProcessLookupError, PermissionError):  # gone, or (macOS) only zombies are left
            pass

    def kill(self) -> None:
        self.signal_group(signal.SIGKILL)

    def stop(self, why: str) -> None:
        """Ask the whole group to end; it is killed when the grace is over."""
        if not self.stopped_for:
            self.stopped_for = why
            self.kill_at = time.monotonic() + self.grace_s
            self.signal_group(signal.SIGTERM)

    def look_at_the_memory(self) -> None:
        """Kill the largest process when all together have too much, as a node's kernel does; the script goes on."""
        now = time.monotonic()
        if now < self.weighed_at + MEMORY_EVERY_S:
            return
        self.weighed_at = now
        weights = [(memory_of(pid), pid) for pid in marked_processes(os.environ.get(MARK, "")) if pid != os.getpid()]
        if weights and sum(weight for weight, _ in weights) > self.most_memory:
            self.out_of_memory = True
            try:
                os.kill(max(weights)[1], signal.SIGKILL)
            except ProcessLookupError:
                pass

    def look_at_the_clock(self) -> None:
        now = time.monotonic()
        ran = now - self.begun
        if now >= self.kill_at:
            self.kill()
        elif self.told:
            self.stop("told")
        elif os.path.exists(self.path("cancel")):
            self.stop("cancel")
        elif ran >= self.limit_s:
            self.stop("limit")
        elif ran >= self.limit_s - self.warn_s and not self.warned:
            self.warned = True
            os.kill(self.group, signal.SIGUSR2)  # to the shell alone, as --signal=B:USR2 does

    def wait(self, wakeup: int) -> tuple[int, object]:
        """The wait status and resource usage of the script, after enforcing its limits."""
        while True:
            pid, status, usage = os.wait4(self.group, os.WNOHANG)
            if pid:
                return status, usage
            self.look_at_the_clock()
            self.look_at_the_memory()
            if select.select([wakeup], [], [], POLL_S)[0]:
                os.read(wakeup, 64)

    def verdict(self, status: int) -> tuple[str, str, int, int]:
        """State and reason in SLURM's words, exit code and signal."""
        code, number = (0, os.WTERMSIG(status)) if os.WIFSIGNALED(status) else (os.WEXITSTATUS(status), 0)
        if self.stopped_for:
            return _STOPPED_BY_US[self.stopped_for], _REASONS[self.stopped_for], code, number
        if self.out_of_memory:
            return "OUT_OF_MEMORY", "OutOfMemory", code, number
        if self.warned and number == signal.SIGUSR2:
            return "TIMEOUT", "TimeLimit", code, number
        if code or number:
            return "FAILED", "NonZeroExitCode" if code else f"RaisedSignal:{number}", code, number
        return "COMPLETED", "", 0, 0

    def record(self, status: int, usage: object) -> None:
        """Write exit.json into the room that was set aside at submission, so that a full disk cannot hide the end."""
        import json  # here, where nothing waits for it any more

        state, reason, code, number = self.verdict(status)
        ended_at = time.time()
        outcome = {
            "state": state,
            "reason": reason,
            "exit_code": code,
            "signal": number,
            "started_at": self.started_at,
            "ended_at": ended_at,
            "elapsed_s": time.monotonic() - self.begun,
            "cpu_s": usage.ru_utime + usage.ru_stime,  # type: ignore[attr-defined]
            "max_rss_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),  # type: ignore[attr-defined]
        }
        overwrite(self.path("exit.json"), json.dumps(outcome))


def overwrite(path: str, text: str) -> None:
    """Put `text` at `path` in one step, written over the blanks that wait in `path`.room where they do."""
    room = path + ".room"
    fd = os.open(room, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        data = text.encode().ljust(os.fstat(fd).st_size)
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(room, path)


def marked_processes(mark: str) -> list[int]:
    """Ids of the processes that carry a job's mark in their environment; empty where there is no /proc."""
    wanted = b"%s=%s" % (MARK.encode(), mark.encode())
    found = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            try:
                with open("/proc/" + name + "/environ", "rb") as handle:
                    if wanted in handle.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue  # ended meanwhile, or another user's
    return found


def memory_of(pid: int) -> int:
    """Bytes that the process has for itself; 0 if it has ended."""
    try:
        with open("/proc/" + str(pid) + "/statm", "rb") as handle:
            _, resident, shared = handle.read().split()[:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def kill_marked(mark: str, but: int = 0, rounds: int = 20) -> bool:
    """Kill every process of the job except `but`, until none is left. False if some survive."""
    for attempt in range(rounds):
        left = [pid for pid in marked_processes(mark) if pid != but]
        if not left:
            return True
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.001 * (attempt + 1))
    return False


def _become_script(folder: str, gate: int) -> None:
    """In the child: own group, clean signals, the job's files; wait for the gate; never return."""
    try:
        os.setpgid(0, 0)
        os.close(LOCK_FD)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    pass
        os.chdir(folder)
        log = os.open("job.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        if os.read(gate, 1) == b"1":
            os.execvp("bash", ["bash", "script.sh"])  # noqa: S606 - it is the shell
        os._exit(125)
    except BaseException as error:  # noqa: BLE001 - a forked child must never run on into the parent's code
        os.write(2, f"the script could not be started: {error}\n".encode())
        os._exit(127)


def _wakeup_pipe(job: Job) -> int:
    """A pipe that becomes readable when a child ended or this process is told to stop."""
    out, into = os.pipe()
    os.set_blocking(into, False)
    os.set_blocking(out, False)
    signal.set_wakeup_fd(into, warn_on_full_buffer=False)

    def tell(number: int, frame: object) -> None:
        job.told = True

    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, tell)
    return out


def main(arguments: list[str]) -> int:
    """Run the job of `arguments[0]`. Exit status 0 once its end is recorded."""
    folder, limit_s, warn_s, grace_s = arguments[0], *map(float, arguments[1:4])
    memory = int(arguments[4])
    os.setsid()
    os.umask(0o077)
    os.set_inheritable(LOCK_FD, False)
    os.closerange(LOCK_FD + 1, 4096)
    job = Job(folder, limit_s, warn_s, grace_s, memory)
    wakeup = _wakeup_pipe(job)
    job.start()
    status, usage = job.wait(wakeup)
    job.kill()
    kill_marked(os.environ.get(MARK, ""), but=os.getpid())
    job.record(status, usage)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
