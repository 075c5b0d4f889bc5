"""The runners: commands and files here and through sshd, and what happens when the way there breaks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import paramiko
import pytest
from divbase_gateway.slurm.runners import DirectoryUnavailable, LocalRunner, Runner, RunnerUnavailable
from divbase_gateway.slurm.ssh import SshRunner

from tests.fakes.ssh_server import FakeSshd


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
    sshd.faults.drop_during = "touch"
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
