"""The runners: commands and files here and through sshd, and what happens when the way there breaks."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import paramiko
import pytest
from divbase_gateway.slurm.runners import Completed, DirectoryUnavailable, LocalRunner, Runner, RunnerUnavailable
from divbase_gateway.slurm.ssh import SshRunner

from tests.fakes.ssh_server import FakeSshd

pytestmark = pytest.mark.slow  # real programs


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[FakeSshd]:
    made = FakeSshd(tmp_path / "sshd")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def ssh(sshd: FakeSshd) -> Iterator[SshRunner]:
    made = SshRunner(sshd.login(), first_pause_s=0.05)
    yield made
    made.close()


@pytest.fixture(params=["local", "ssh"])
def runner(request: pytest.FixtureRequest) -> Runner:
    if request.param == "local":
        return LocalRunner()
    made: SshRunner = request.getfixturevalue("ssh")
    return made


def fault(runner: Runner, *argv: str, timeout_s: float = 5.0) -> RunnerUnavailable:
    with pytest.raises(RunnerUnavailable) as caught:
        runner.run(argv or ["/bin/true"], {}, timeout_s)
    return caught.value


# --- both --------------------------------------------------------------------------------------------------------


def test_output_error_output_and_status_come_apart(runner: Runner) -> None:
    """Each whole, and none in the other."""
    done = runner.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], {}, 5)
    assert (done.stdout.strip(), done.stderr.strip(), done.status) == ("out", "err", 3)


def test_arguments_arrive_unchanged(runner: Runner) -> None:
    """Whatever a shell on the way would make of them."""
    hostile = ["a b", "$(id)", "`id`", "'", '"', "\\", "*", "", "å", "-n", "a|b;c&"]
    done = runner.run(["/usr/bin/printf", "<%s>\\n", *hostile], {}, 5)
    assert done.stdout.strip() == "\n".join(f"<{word}>" for word in hostile)


def test_variables_are_these_and_no_others(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the gateway or of the account could change a job."""
    monkeypatch.setenv("SBATCH_ACCOUNT", "somebody-else")
    done = runner.run(["/usr/bin/env"], {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}, 5)
    assert sorted(done.stdout.split()) == ["LC_ALL=C", "SLURM_TIME_FORMAT=%s"]


def test_standard_input_is_at_its_end(runner: Runner) -> None:
    """No command waits for somebody to type."""
    assert runner.run(["/bin/cat"], {}, 5).status == 0


def test_long_output_on_both_outputs_is_whole(runner: Runner) -> None:
    """More than any pipe or window holds."""
    script = "head -c 3000000 /dev/zero | tr '\\0' o; head -c 3000000 /dev/zero | tr '\\0' e >&2"
    done = runner.run(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, 30)
    assert (done.stdout.count("o"), done.stderr.count("e")) == (3_000_000, 3_000_000)


def test_command_that_takes_too_long_may_have_run(runner: Runner) -> None:
    """The answer is lost, and it comes in time that it is."""
    begun = time.monotonic()
    assert fault(runner, "/bin/sleep", "20", timeout_s=0.5).started
    assert time.monotonic() - begun < 5


def test_directory_and_files_are_private(runner: Runner, tmp_path: Path) -> None:
    """0700 and 0600, byte for byte."""
    folder = tmp_path / "job"
    runner.put_directory(PurePosixPath(folder), {"a": b"\x00\xff", "b": b""})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"\x00\xff", "b": b""}
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / "a", folder / "b")] == [0o700, 0o600, 0o600]


def test_directory_that_is_there_is_not_used(runner: Runner, tmp_path: Path) -> None:
    """Whose it is nobody knows; it stays as it is."""
    (tmp_path / "job").mkdir()
    with pytest.raises(DirectoryUnavailable):
        runner.put_directory(PurePosixPath(tmp_path / "job"), {"a": b""})
    assert list((tmp_path / "job").iterdir()) == []


def test_directory_that_could_not_be_filled_is_gone(runner: Runner, tmp_path: Path) -> None:
    """Half a job is no job."""
    with pytest.raises(DirectoryUnavailable):
        runner.put_directory(PurePosixPath(tmp_path / "job"), {"a": b"x", "no/such/b": b""})
    assert not (tmp_path / "job").exists()


def test_command_finds_the_directory_and_its_files(runner: Runner, tmp_path: Path) -> None:
    """Private, byte for byte, before it starts."""
    folder = PurePosixPath(tmp_path / "job")
    script = f"cd {folder} && od -An -tx1 a && stat -c '%a %n' . a && echo err >&2; exit 3"
    done = runner.run_beside(folder, {"a": b"\x00\xff"}, ["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, 10)
    assert (done.stdout.split(), done.stderr, done.status) == (["00", "ff", "700", ".", "600", "a"], "err\n", 3)


def test_command_sees_these_variables_and_no_input(runner: Runner, tmp_path: Path) -> None:
    """As every other command."""
    script = ["/bin/sh", "-c", "/usr/bin/env; cat"]
    done = runner.run_beside(PurePosixPath(tmp_path / "job"), {}, script, {"LC_ALL": "C"}, 10)
    assert {line.partition("=")[0] for line in done.stdout.split()} <= {"LC_ALL", "PWD", "SHLVL", "_"}


def test_command_without_its_directory_is_not_run(runner: Runner, tmp_path: Path) -> None:
    """Neither where there is one already, which stays as it is, nor where it cannot be filled; the next one is."""
    (tmp_path / "there").mkdir()
    mark = ["/usr/bin/touch", str(tmp_path / "ran")]
    with pytest.raises(DirectoryUnavailable, match="File exists"):
        runner.run_beside(PurePosixPath(tmp_path / "there"), {"a": b"x"}, mark, {}, 10)
    with pytest.raises(DirectoryUnavailable):
        runner.run_beside(PurePosixPath(tmp_path / "job"), {"a": b"x", "no/such/b": b""}, mark, {}, 10)
    assert [path.name for path in tmp_path.rglob("*") if path.name in ("ran", "a", "job")] == []
    assert runner.run_beside(PurePosixPath(tmp_path / "job"), {"a": b"x"}, mark, {}, 10).status == 0


def test_command_beside_files_that_takes_too_long_may_have_run(runner: Runner, tmp_path: Path) -> None:
    """And what comes after it does not wait for it."""
    with pytest.raises(RunnerUnavailable) as caught:
        runner.run_beside(PurePosixPath(tmp_path / "a"), {}, ["/bin/sleep", "20"], {}, 1.0)
    assert caught.value.started
    assert runner.run_beside(PurePosixPath(tmp_path / "b"), {}, ["/bin/true"], {}, 10).status == 0


def test_tail_of_a_file(runner: Runner, tmp_path: Path) -> None:
    """Its last bytes, all of a short one, nothing of none."""
    (tmp_path / "log").write_bytes(b"0123456789")
    path = PurePosixPath(tmp_path / "log")
    assert [runner.read_tail(path, size) for size in (3, 100)] == [b"789", b"0123456789"]
    assert runner.read_tail(PurePosixPath(tmp_path / "none"), 3) == b""


def test_directory_is_removed_with_all_in_it_and_twice(runner: Runner, tmp_path: Path) -> None:
    """Links are removed, not followed."""
    kept = tmp_path / "kept"
    (tmp_path / "job" / "deep").mkdir(parents=True)
    kept.mkdir()
    (kept / "file").write_text("x")
    (tmp_path / "job" / "deep" / "link").symlink_to(kept)
    for _ in range(2):
        runner.remove_directory(PurePosixPath(tmp_path / "job"))
    assert not (tmp_path / "job").exists()
    assert (kept / "file").read_text() == "x"


def test_missing_program_here_was_not_started() -> None:
    """The message names the setting."""
    error = fault(LocalRunner(), "/no/such/sbatch")
    assert not error.started
    assert "scheduler.bin_dir" in str(error)


# --- through sshd ------------------------------------------------------------------------------------------------


def test_one_connection_for_everything(sshd: FakeSshd, ssh: SshRunner, tmp_path: Path) -> None:
    """Commands and files share it."""
    ssh.put_directory(PurePosixPath(tmp_path / "job"), {"a": b"x"})
    for _ in range(3):
        ssh.run(["/bin/true"], {}, 5)
    assert sshd.connections == 1


def test_channels_are_bounded(sshd: FakeSshd, ssh: SshRunner) -> None:
    """Thirty at once fit into sshd's ten sessions, the file session included."""
    ssh.read_tail(PurePosixPath("/nowhere"), 1)
    with ThreadPoolExecutor(30) as pool:
        done = list(pool.map(lambda _: ssh.run(["/bin/sleep", "0.05"], {}, 20).status, range(30)))
    assert done == [0] * 30
    assert 2 <= sshd.most_sessions <= 9


def test_fewer_sessions_than_channels_says_who_does_what(sshd: FakeSshd, ssh: SshRunner) -> None:
    """Nothing was started."""
    sshd.faults.max_sessions = 0
    error = fault(ssh)
    assert not error.started
    assert "MaxSessions" in str(error)


def test_banner_is_not_in_the_answer(sshd: FakeSshd, ssh: SshRunner) -> None:
    """Not even one without an end of line."""
    sshd.faults.banner = "42\nWelcome! "
    assert ssh.run(["/bin/echo", "7"], {}, 5).stdout == "7\n"


def test_answer_without_its_end_is_no_answer(sshd: FakeSshd, ssh: SshRunner) -> None:
    """Half a list of jobs must not look like a short one."""
    sshd.faults.without_status = True
    error = fault(ssh, "/bin/echo", "half")
    assert error.started
    assert "cut short" in str(error)


def test_connection_lost_during_a_command_may_have_run_it(sshd: FakeSshd, ssh: SshRunner, tmp_path: Path) -> None:
    """It did; the next command connects again."""
    mark = tmp_path / "ran"
    sshd.faults.drop_at = b" end "
    assert fault(ssh, "/usr/bin/touch", str(mark)).started
    assert mark.exists()
    assert ssh.run(["/bin/echo", "again"], {}, 5).stdout.strip() == "again"
    assert sshd.connections == 2


def test_connection_lost_between_commands_is_made_again(sshd: FakeSshd, ssh: SshRunner, tmp_path: Path) -> None:
    """For files as for commands."""
    ssh.put_directory(PurePosixPath(tmp_path / "one"), {})
    sshd.cut()
    time.sleep(0.2)
    ssh.put_directory(PurePosixPath(tmp_path / "two"), {})
    assert (tmp_path / "two").is_dir()


def test_changed_host_key_is_refused(sshd: FakeSshd) -> None:
    """It is never taken over, and the message says who decides."""
    login = sshd.login()
    sshd.change_host_key()
    error = fault(SshRunner(login))
    assert not error.started
    assert "has changed" in str(error)
    assert "administrator confirms the new key" in str(error)
    assert sshd.sessions == 0


def test_unknown_host_is_refused(sshd: FakeSshd, tmp_path: Path) -> None:
    """A pinned key there must be."""
    empty = tmp_path / "empty"
    empty.write_text("")
    error = fault(SshRunner(sshd.login(known_hosts=empty)))
    assert not error.started
    assert "ssh-keyscan" in str(error)
    assert empty.read_text() == ""


def test_refused_key_says_who_does_what(sshd: FakeSshd, ssh: SshRunner) -> None:
    """Not an endless try."""
    sshd.faults.refuse_auth = True
    error = fault(ssh)
    assert not error.started
    assert "authorized_keys" in str(error)


@pytest.mark.parametrize("setting", ["key_file", "known_hosts"])
def test_missing_file_is_named(sshd: FakeSshd, tmp_path: Path, setting: str) -> None:
    """With the setting that is to be corrected."""
    error = fault(SshRunner(sshd.login(**{setting: tmp_path / "nowhere"})))
    assert not error.started
    assert str(tmp_path / "nowhere") in str(error)
    assert f"scheduler.ssh_{setting}" in str(error)


def test_key_that_needs_a_passphrase_says_so(sshd: FakeSshd, tmp_path: Path) -> None:
    """Nobody is there to type it."""
    paramiko.ECDSAKey.generate().write_private_key_file(str(tmp_path / "locked"), password="secret")
    error = fault(SshRunner(sshd.login(key_file=tmp_path / "locked")))
    assert not error.started
    assert "without a passphrase" in str(error)


def test_login_node_away_is_tried_again_after_a_pause(sshd: FakeSshd) -> None:
    """Within the pause nobody is asked; after it the way back is found."""
    runner = SshRunner(sshd.login(), first_pause_s=0.3)
    sshd.stop()
    assert not fault(runner).started
    sshd.start()
    assert not fault(runner).started
    assert sshd.connections == 0
    time.sleep(0.4)
    assert runner.run(["/bin/echo", "back"], {}, 5).stdout.strip() == "back"
    runner.close()


def test_node_that_takes_connections_and_says_nothing_has_a_time_limit(tmp_path: Path, sshd: FakeSshd) -> None:
    """A hung sshd does not hang the gateway."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        login = sshd.login(port=silent.getsockname()[1], connect_s=0.5)
        begun = time.monotonic()
        assert not fault(SshRunner(login)).started
        assert time.monotonic() - begun < 4


def test_files_wait_for_each_other_and_none_is_lost(ssh: SshRunner, tmp_path: Path) -> None:
    """Many threads put directories through the one file session."""
    failures: list[BaseException] = []

    def put(number: int) -> None:
        try:
            ssh.put_directory(PurePosixPath(tmp_path / f"job{number}"), {"a": str(number).encode()})
        except BaseException as error:  # noqa: BLE001 - shown below, in the thread that pytest watches
            failures.append(error)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [(tmp_path / f"job{n}" / "a").read_text() for n in range(20)] == [str(n) for n in range(20)]


# --- the workers on the login node -------------------------------------------------------------------------------


def beside(ssh: SshRunner, folder: Path, name: str, *argv: str) -> Completed:
    command = argv or ("/bin/echo", name)
    return ssh.run_beside(PurePosixPath(folder / name), {"file": name.encode()}, command, {"PATH": "/usr/bin:/bin"}, 20)


def test_worker_is_kept_for_the_next_job(sshd: FakeSshd, ssh: SshRunner, tmp_path: Path) -> None:
    """Ten jobs, one login."""
    assert [beside(ssh, tmp_path, f"job{number}").stdout for number in range(10)] == [f"job{n}\n" for n in range(10)]
    assert len(sshd.processes) == 1


def test_workers_are_bounded_together_with_commands_and_files(sshd: FakeSshd, ssh: SshRunner, tmp_path: Path) -> None:
    """Forty at once fit into sshd's ten sessions."""
    ssh.read_tail(PurePosixPath("/nowhere"), 1)

    def one(number: int) -> int:
        return (beside(ssh, tmp_path, f"job{number}") if number % 2 else ssh.run(["/bin/true"], {}, 20)).status

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(one, range(40))) == [0] * 40
    assert sshd.most_sessions <= 9
    assert len(list(tmp_path.glob("job*/file"))) == 20


def test_banner_before_a_worker_is_not_in_the_answer(sshd: FakeSshd, ssh: SshRunner, tmp_path: Path) -> None:
    """Whatever the login files print."""
    sshd.faults.banner = "42\n{}\nWelcome! "
    assert beside(ssh, tmp_path, "job").stdout == "job\n"


def test_secrets_are_in_no_command_line(sshd: FakeSshd, ssh: SshRunner, tmp_path: Path) -> None:
    """The process list of a login node is for everybody."""
    files = {"job.json": b"the-token-of-the-job"}
    done = ssh.run_beside(PurePosixPath(tmp_path / "job"), files, ["/bin/ps", "-eww", "-o", "args"], {}, 20)
    assert "python3 -IS" in done.stdout
    assert "the-token-of-the-job" not in done.stdout


def test_worker_that_ended_between_two_jobs_is_replaced(sshd: FakeSshd, ssh: SshRunner, tmp_path: Path) -> None:
    """Somebody tidies the login node."""
    beside(ssh, tmp_path, "one")
    sshd.processes[0].kill()
    time.sleep(0.3)
    assert beside(ssh, tmp_path, "two").stdout == "two\n"


def test_worker_that_ended_before_it_began_has_run_nothing(sshd: FakeSshd, ssh: SshRunner, tmp_path: Path) -> None:
    """That is certain, so another one takes the job: it runs once."""
    beside(ssh, tmp_path, "one")
    first = sshd.processes[0]
    first.send_signal(signal.SIGSTOP)
    threading.Timer(0.5, first.kill).start()
    log = tmp_path / "log"
    assert beside(ssh, tmp_path, "two", "/bin/sh", "-c", f"echo ran >>{log}").status == 0
    assert (len(sshd.processes), log.read_text()) == (2, "ran\n")


def test_worker_that_ended_in_the_middle_may_have_run_the_command(
    sshd: FakeSshd, ssh: SshRunner, tmp_path: Path
) -> None:
    """sbatch may be at work although nobody hears of it."""
    threading.Timer(1.0, lambda: sshd.processes[0].kill()).start()
    with pytest.raises(RunnerUnavailable) as caught:
        beside(ssh, tmp_path, "job", "/bin/sleep", "5")
    assert caught.value.started


@pytest.mark.parametrize("heard", [b'"begun"', b'"status"'])
def test_connection_lost_while_a_worker_is_at_work_may_have_run_it(
    sshd: FakeSshd, ssh: SshRunner, tmp_path: Path, heard: bytes
) -> None:
    """What it said last was lost; the next job connects again."""
    sshd.faults.drop_at = heard
    with pytest.raises(RunnerUnavailable) as caught:
        beside(ssh, tmp_path, "one")
    assert caught.value.started
    assert beside(ssh, tmp_path, "two").stdout == "two\n"
    assert sshd.connections == 2


def test_login_node_without_python_takes_jobs_too(sshd: FakeSshd, ssh: SshRunner, tmp_path: Path) -> None:
    """By the file session and a command, without asking for Python each time."""
    sshd.faults.without_python = True
    assert [beside(ssh, tmp_path, f"job{number}").stdout for number in range(3)] == [f"job{n}\n" for n in range(3)]
    assert len(sshd.processes) == 4
    assert (tmp_path / "job1" / "file").stat().st_mode & 0o777 == 0o600


# --- a login node that hangs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", ["open", "exec"])
def test_sshd_that_stops_answering_is_given_up(sshd: FakeSshd, tmp_path: Path, request_: str) -> None:
    """TCP is well and nothing comes: within the limit the connection is cut, and the next command makes another."""
    runner = SshRunner(sshd.login(answer_s=0.5), first_pause_s=0.05)
    assert runner.run(["/bin/true"], {}, 20).status == 0
    sshd.faults.frozen_at = request_
    begun = time.monotonic()
    assert fault(runner, timeout_s=20).started == (request_ == "exec")
    with pytest.raises(RunnerUnavailable) as caught:
        beside(runner, tmp_path, "one")
    assert not caught.value.started
    assert time.monotonic() - begun < 8
    sshd.faults.frozen_at = ""
    assert runner.run(["/bin/true"], {}, 20).status == 0
    runner.close()


def test_channel_that_sshd_still_counts_is_waited_for(sshd: FakeSshd, ssh: SshRunner) -> None:
    """A session ends on its side a moment after ours."""
    ssh.run(["/bin/true"], {}, 5)
    sshd.faults.max_sessions = 0
    threading.Timer(0.4, lambda: setattr(sshd.faults, "max_sessions", 10)).start()
    assert ssh.run(["/bin/true"], {}, 5).status == 0


# --- keys --------------------------------------------------------------------------------------------------------


def test_key_that_others_can_read_is_not_used(sshd: FakeSshd) -> None:
    """With the command that mends it."""
    (sshd.folder / "key").chmod(0o640)
    error = fault(SshRunner(sshd.login()))
    assert not error.started
    assert f"chmod 600 {sshd.folder / 'key'}" in str(error)


def test_file_that_is_no_key_says_so(sshd: FakeSshd, tmp_path: Path) -> None:
    """And which setting names it."""
    (tmp_path / "not-a-key").write_text("hello")
    (tmp_path / "not-a-key").chmod(0o600)
    error = fault(SshRunner(sshd.login(key_file=tmp_path / "not-a-key")))
    assert not error.started
    assert "scheduler.ssh_key_file" in str(error)


def test_no_key_at_all_says_where_one_may_come_from(sshd: FakeSshd) -> None:
    """Neither a file nor an agent."""
    error = fault(SshRunner(sshd.login(key_file=None)))
    assert not error.started
    assert "scheduler.ssh_agent" in str(error)


@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="no ssh-agent here")
def test_key_of_an_agent_is_used(sshd: FakeSshd, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> None:
    """Only where the settings say so."""
    address = tmp_path_factory.mktemp("agent") / "s"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(address))
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.DEVNULL) as agent:
        try:
            while not address.exists():
                time.sleep(0.01)
            subprocess.run(["ssh-add", "-q", str(sshd.folder / "key")], check=True, capture_output=True)
            assert not fault(SshRunner(sshd.login(key_file=None))).started
            runner = SshRunner(sshd.login(key_file=None, agent=True))
            assert runner.run(["/bin/true"], {}, 5).status == 0
            runner.close()
        finally:
            agent.terminate()
