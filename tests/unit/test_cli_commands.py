"""The `divbase` commands in this process, against the fake gateway: what they print, where, and how they exit."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import pytest
from divbase_cli import jobs as jobs_module
from divbase_cli import members as members_module
from divbase_cli import query as query_module
from divbase_cli.config import Config, Profile, load_config, save_config, save_key
from divbase_cli.failure import ExitCode, UsageError, exit_code_of
from divbase_cli.files import plan_upload
from divbase_cli.main import app, run
from divbase_cli.output import local_time, printable, seconds, size
from divbase_cli.reference import render
from divbase_cli.session import Options, Session, is_unprotected
from divbase_client import errors
from divbase_client.models import JobState, OutputFormat, Role
from typer.testing import CliRunner

from tests.fakes.gateway_server import KEY, NOW, FakeGateway, Fault, Refusal, api_key, job, plan, running_gateway

ROOT = Path(__file__).parents[2]


class Shell:
    """Runs command lines with an environment of their own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment: dict[str, str | None] = {
            **{name: None for name in os.environ if name.startswith("DIVBASE_")},
            **environment,
        }

    def __call__(self, *words: str, stdin: str | None = None, code: int = 0) -> Any:
        result = CliRunner().invoke(app, list(words), input=stdin, env=self.environment)
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return result

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway() as one:
        yield one


@pytest.fixture
def shell(gateway: FakeGateway, tmp_path: Path) -> Shell:
    return Shell(
        {
            "DIVBASE_CONFIG": str(tmp_path / "home" / "config.toml"),
            "DIVBASE_URL": gateway.url,
            "DIVBASE_API_KEY": KEY,
            "DIVBASE_PROJECT": "vole",
        }
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Shell:
    return Shell({"DIVBASE_CONFIG": str(tmp_path / "home" / "config.toml")})


class TestLogin:
    def test_keeps_profile_and_key_apart(self, fresh: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """After login the key is in a file of mode 0600, and not in the configuration."""
        fresh("login", gateway.url, "--api-key-stdin", stdin=KEY + "\n")
        assert KEY not in (tmp_path / "home" / "config.toml").read_text()
        credentials = tmp_path / "home" / "credentials.toml"
        assert KEY in credentials.read_text()
        assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
        assert "ada@example.org" in fresh("whoami").stdout

    def test_wrong_key_is_not_kept(self, fresh: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """A key that the gateway refuses leaves no trace."""
        fresh("login", gateway.url, "--api-key-stdin", stdin="dvb_wrong.key\n", code=ExitCode.NOT_ALLOWED)
        assert not (tmp_path / "home").exists()

    def test_without_terminal_needs_the_option(self, fresh: Shell, gateway: FakeGateway) -> None:
        """A script that forgot --api-key-stdin gets an error, not a hanging prompt."""
        result = fresh("login", gateway.url, code=ExitCode.USAGE)
        assert "--api-key-stdin" in result.stderr

    def test_logout_forgets(self, fresh: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """After logout no file holds the key."""
        fresh("login", gateway.url, "--api-key-stdin", stdin=KEY)
        fresh("logout")
        assert KEY not in "".join(path.read_text() for path in (tmp_path / "home").iterdir())
        fresh("whoami", code=ExitCode.USAGE)

    def test_key_file_that_others_can_read(self, fresh: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """A key file with loose permissions is refused with the command that repairs it."""
        fresh("login", gateway.url, "--api-key-stdin", stdin=KEY)
        (tmp_path / "home" / "credentials.toml").chmod(0o644)
        assert "chmod 600" in fresh("whoami", code=ExitCode.USAGE).stderr

    def test_stored_key_is_not_sent_elsewhere(self, fresh: Shell, gateway: FakeGateway) -> None:
        """--url with another host does not get the profile's key."""
        fresh("login", gateway.url, "--api-key-stdin", stdin=KEY)
        with running_gateway() as other:
            fresh("whoami", "--url", other.url, code=ExitCode.USAGE)
            assert other.seen == []

    def test_project_is_remembered(self, fresh: Shell, gateway: FakeGateway) -> None:
        """`projects use` makes -p needless."""
        fresh("login", gateway.url, "--api-key-stdin", stdin=KEY)
        fresh("files", "ls", code=ExitCode.USAGE)
        fresh("projects", "use", "vole")
        fresh("files", "ls")

    def test_profiles_live_side_by_side(self, fresh: Shell, gateway: FakeGateway) -> None:
        """Two logins make two profiles, and `config use` goes between them."""
        fresh("login", gateway.url, "--api-key-stdin", "--profile", "one", stdin=KEY)
        fresh("--profile", "two", "login", gateway.url, "--api-key-stdin", stdin=KEY)
        shown = fresh.json("config", "show")
        assert (sorted(shown["profiles"]), shown["current"]) == (["one", "two"], "two")
        fresh("config", "use", "one")
        assert fresh.json("config", "show")["current"] == "one"
        fresh("config", "use", "three", code=ExitCode.USAGE)


class TestConfig:
    def test_hostile_values_survive_the_file(self, tmp_path: Path) -> None:
        """Quotes, brackets, control characters and umlauts in names come back as they were."""
        name = 'a"b]\\ü\x7f\n='
        config = Config(tmp_path / "c.toml", name, {name: Profile(url="https://x/'\"", project=name)})
        config = save_key(config, name, "dvb_k.s", "file")
        save_config(config)
        assert load_config(config.path) == config

    def test_broken_file_is_named(self, fresh: Shell, tmp_path: Path) -> None:
        """A configuration that does not parse is an error with the file's name, not a traceback."""
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "config.toml").write_text("profile = [")
        result = fresh("config", "show", code=ExitCode.USAGE)
        assert "config.toml" in result.stderr

    @pytest.mark.parametrize(
        ("url", "unprotected"),
        [
            ("http://divbase.example.org", True),
            ("http://10.0.0.5:8000", True),
            ("http://127.0.0.1:8000", False),
            ("http://[::1]:8000", False),
            ("http://localhost", False),
            ("https://divbase.example.org", False),
        ],
    )
    def test_unencrypted_key_is_noticed(self, url: str, unprotected: bool) -> None:
        """http:// to anything but this machine is what the warning is for."""
        assert is_unprotected(url) is unprotected

    def test_warning_about_http(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The warning goes to standard error."""
        Session(Options(url="http://divbase.example.org"), {"DIVBASE_API_KEY": "k"}).client.close()
        shown = capsys.readouterr()
        assert "unencrypted" in shown.err
        assert shown.out == ""


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "code"),
        [(400, 3), (422, 3), (404, 4), (401, 5), (403, 5), (409, 6), (500, 7)],
    )
    def test_documented_exit_codes(self, shell: Shell, gateway: FakeGateway, status: int, code: int) -> None:
        """Scripts can tell refusals apart by the exit code."""
        gateway.answers["GET /projects/vole/metadata"] = Refusal(status, "some_code", "It is so.", "Do this.")
        result = shell("metadata", "show", code=code)
        assert result.stderr.startswith("divbase: It is so. Do this.")
        assert result.stderr.count("\n") == 1

    def test_problem_as_json(self, shell: Shell, gateway: FakeGateway) -> None:
        """With --json the error is the problem document on standard error, and standard output stays empty."""
        gateway.answers["GET /projects/vole/metadata"] = Refusal(404, "no_metadata", "None yet.")
        result = shell("metadata", "show", "--json", code=ExitCode.NOT_FOUND)
        problem = json.loads(result.stderr)
        assert (problem["code"], problem["status"], problem["exit_code"]) == ("no_metadata", 404, 4)
        assert result.stdout == ""

    def test_unknown_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A wrong command line is one line and exit code 2."""
        with pytest.raises(SystemExit) as end:
            run(["files", "ls", "--nope"])
        assert end.value.code == ExitCode.USAGE
        shown = capsys.readouterr().err
        assert shown.startswith("divbase: ")
        assert shown.count("\n") == 1

    def test_unknown_option_as_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        """With --json even that is JSON."""
        with pytest.raises(SystemExit):
            run(["files", "ls", "--nope", "--json"])
        assert json.loads(capsys.readouterr().err)["exit_code"] == 2

    def test_no_gateway_is_set(self, fresh: Shell) -> None:
        """Without any setting the error says how to begin."""
        assert "divbase login" in fresh("projects", "ls", code=ExitCode.USAGE).stderr

    def test_table_of_exit_codes(self) -> None:
        """Errors that no gateway answers have their codes too."""
        assert exit_code_of(errors.GatewayUnreachable("x")) == 7
        assert exit_code_of(errors.TransferInterrupted("x")) == 7
        assert exit_code_of(errors.ChecksumMismatch("x")) == 9
        assert exit_code_of(ValueError("x")) == 1


class TestOutput:
    def test_hostile_file_name(self, shell: Shell, gateway: FakeGateway) -> None:
        """Control, invisible and direction-changing characters of a key are printed as escapes."""
        gateway.store("a\x1b[31m\u202eb\u200b\n.vcf", b"")
        line = shell("files", "ls").stdout.splitlines()[1]
        assert line.startswith("a\\x1b[31m\\u202eb\\u200b\\n.vcf\t")

    def test_pipe_gets_whole_names(self, shell: Shell, gateway: FakeGateway) -> None:
        """No name is shortened where it is not shown to a person."""
        key = "x" * 300
        gateway.store(key, b"")
        assert shell("files", "ls").stdout.splitlines()[1].split("\t")[0] == key

    def test_json_is_the_wire_form(self, shell: Shell, gateway: FakeGateway) -> None:
        """--json prints what the gateway answered: bytes and UTC."""
        gateway.store("a.vcf.gz", b"12345")
        (one,) = shell.json("files", "ls")
        assert (one["key"], one["size"], one["uploaded_at"]) == ("a.vcf.gz", 5, NOW)

    @pytest.mark.parametrize(
        ("count", "text"),
        [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (416_000_000, "416 MB"), (999_999, "1.0 MB"), (None, "-")],
    )
    def test_sizes(self, count: int | None, text: str) -> None:
        """Sizes are powers of 1000 with two or three digits."""
        assert size(count) == text

    @pytest.mark.parametrize(("count", "text"), [(42, "42 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
    def test_durations(self, count: float, text: str) -> None:
        """Durations are in the two largest units."""
        assert seconds(count) == text

    def test_absent_time(self) -> None:
        """What never happened is a dash."""
        assert local_time(None) == "-"

    def test_letters_stay(self) -> None:
        """Names in any script are shown as they are."""
        assert printable("Fjällräv 狐") == "Fjällräv 狐"


class TestFiles:
    def test_upload_says_what_became_of_each(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """One line for each file: sent, unchanged or failed, and the state."""
        for name in ("a", "b"):
            (tmp_path / name).write_text(name)
        gateway.store("in/b", b"b")
        shown = shell("files", "upload", str(tmp_path / "a"), str(tmp_path / "b"), "--prefix", "in").stdout
        assert [line.split("\t")[:4] for line in shown.splitlines()[1:]] == [
            ["in/a", "1 B", "sent", "READY"],
            ["in/b", "1 B", "unchanged", "READY"],
        ]

    def test_recursive_upload_keeps_folders(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """Files keep their place below the folder; hidden ones stay at home."""
        (tmp_path / "data" / "sub").mkdir(parents=True)
        for name in ("x", "sub/y", ".hidden"):
            (tmp_path / "data" / name).write_text(name)
        shell("files", "upload", "-r", str(tmp_path / "data"), "--prefix", "in/")
        assert sorted(gateway.files) == ["in/sub/y", "in/x"]

    def test_one_failure_of_several(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """The rest is uploaded, and the exit code is that of the failure."""
        (tmp_path / "a").write_text("a")
        (tmp_path / "b").write_text("b")
        gateway.faults.append(Fault("PUT /s3/upload/up1", 400, times=9, code="InvalidRequest"))
        shell("files", "upload", str(tmp_path / "a"), str(tmp_path / "b"), code=ExitCode.UNREACHABLE)
        assert len(gateway.files) == 1

    def test_two_files_for_one_key(self, tmp_path: Path) -> None:
        """Two files that would overwrite each other are refused before anything is sent."""
        for folder in ("1", "2"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "a").write_text("x")
        with pytest.raises(UsageError):
            plan_upload([str(tmp_path / "1" / "a"), str(tmp_path / "2" / "a")], prefix="", key=None, recursive=False)

    def test_glob_in_quotes(self, tmp_path: Path) -> None:
        """A glob that the shell did not expand is expanded here."""
        for name in ("a.vcf", "b.vcf", "c.txt"):
            (tmp_path / name).write_text("x")
        sources = plan_upload([str(tmp_path / "*.vcf")], prefix="p", key=None, recursive=False)
        assert [one.key for one in sources] == ["p/a.vcf", "p/b.vcf"]

    def test_file_whose_name_looks_like_a_glob(self, tmp_path: Path) -> None:
        """A file that exists is that file."""
        (tmp_path / "a[1].vcf").write_text("x")
        sources = plan_upload([str(tmp_path / "a[1].vcf")], prefix="", key=None, recursive=False)
        assert [one.key for one in sources] == ["a[1].vcf"]

    def test_folder_needs_recursive(self, shell: Shell, tmp_path: Path) -> None:
        """A folder without --recursive is a usage error that says so."""
        assert "--recursive" in shell("files", "upload", str(tmp_path), code=ExitCode.USAGE).stderr

    def test_download_by_glob(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """A glob takes what it matches; --tree keeps folders."""
        for key in ("in/a.vcf", "in/deep/b.vcf", "in/c.txt"):
            gateway.store(key, key.encode())
        shell("files", "download", "in/*.vcf", "--to", str(tmp_path / "out"), "--tree")
        found = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "out").rglob("*.*"))
        assert found == ["out/in/a.vcf", "out/in/deep/b.vcf"]

    def test_download_of_equal_names(self, shell: Shell, gateway: FakeGateway) -> None:
        """Two keys that would become one file are refused; --tree is the way."""
        gateway.store("x/a", b"1")
        gateway.store("y/a", b"2")
        assert "--tree" in shell("files", "download", "*/a", code=ExitCode.USAGE).stderr

    def test_download_over_another_file(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """What differs is not overwritten: a conflict that names --force."""
        gateway.store("a", b"theirs")
        (tmp_path / "a").write_bytes(b"mine")
        result = shell("files", "download", "a", "--to", str(tmp_path), code=ExitCode.CONFLICT)
        assert "--force" in result.stderr

    def test_wrong_bytes(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """A checksum that does not match has its own exit code."""
        gateway.store("a", b"abc")
        gateway.faults.append(Fault("GET /s3", "wrong"))
        result = shell("files", "download", "a", "--to", str(tmp_path), code=ExitCode.CHECKSUM)
        assert result.stderr.count("\n") == 1

    def test_cat_is_byte_for_byte(self, shell: Shell, gateway: FakeGateway) -> None:
        """Standard output gets the bytes and nothing else."""
        data = bytes(range(256)) * 100
        gateway.store("a", data)
        assert shell("files", "cat", "a").stdout_bytes == data

    def test_rm_and_restore(self, shell: Shell, gateway: FakeGateway) -> None:
        """rm is soft and says how to undo it."""
        gateway.store("a", b"x")
        assert "restore" in shell("files", "rm", "a").stdout
        assert shell.json("files", "ls") == []
        assert shell.json("files", "ls", "--deleted")[0]["deleted"] is True
        shell("files", "restore", "a")
        assert len(shell.json("files", "ls")) == 1


class TestMetadata:
    def test_validate_shows_every_fault(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """All faults at once, with row and column, without any request."""
        table = tmp_path / "t.tsv"
        table.write_text("#Sample_ID\tArea\nS1\tN\nS1\tN\nS2\n")
        result = shell("metadata", "validate", str(table), code=ExitCode.BAD_INPUT)
        assert len(result.stdout.splitlines()) == 3
        assert gateway.seen == []

    def test_push_of_a_bad_table_sends_nothing(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """The table is checked before the first request."""
        table = tmp_path / "t.tsv"
        table.write_text("Sample\nS1\n")
        shell("metadata", "push", str(table), code=ExitCode.BAD_INPUT)
        assert gateway.seen == []

    def test_push_prints_warnings(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """The table takes its fixed key, and the gateway's warnings reach standard error."""
        gateway.answers["GET /projects/vole/metadata"] = {
            "key": "sample_metadata.tsv",
            "version_id": "v1",
            "rows": 1,
            "columns": [],
            "warnings": ["S9 is in no file"],
        }
        table = tmp_path / "t.tsv"
        table.write_text("#Sample_ID\tArea\nS9\tN\n")
        assert "S9 is in no file" in shell("metadata", "push", str(table)).stderr
        assert gateway.files["sample_metadata.tsv"][-1].data == table.read_bytes()

    def test_template_is_a_valid_table(self, shell: Shell, tmp_path: Path) -> None:
        """What `template` writes, `validate` accepts."""
        path = tmp_path / "t.tsv"
        shell("metadata", "template", "--columns", "Area,Sex", "-o", str(path))
        assert path.read_text() == "#Sample_ID\tArea\tSex\nS1\t\t\nS2\t\t\n"
        shell("metadata", "validate", str(path))
        shell("metadata", "template", "-o", str(path), code=ExitCode.CONFLICT)


class TestQuery:
    @pytest.mark.parametrize("words", [[], ["--where", "a:b", "--all-samples"], ["--samples", " , "]])
    def test_exactly_one_choice_of_samples(self, shell: Shell, gateway: FakeGateway, words: list[str]) -> None:
        """None, two and an empty list are usage errors."""
        shell("query", "plan", *words, code=ExitCode.USAGE)
        assert gateway.seen == []

    def test_samples_file(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """One sample a line; blank lines and comments do not count, and names keep their inner spaces."""
        (tmp_path / "s.txt").write_text("# ours\n001\n\n NA \nA B\n")
        shell("query", "plan", "--samples-file", str(tmp_path / "s.txt"))
        assert json.loads(gateway.requests("queries/plan")[0].body)["samples"] == ["001", "NA", "A B"]

    def test_a_plan_says_what_the_job_would_cost(self, shell: Shell, gateway: FakeGateway) -> None:
        """Before anybody waits for it: time, what SLURM is asked for, and whose allocation pays."""
        lines = shell("query", "plan", "--all-samples").stdout.splitlines()
        assert "Reads:       100 B of 1.0 kB" in lines
        assert "Expected:    about 7 s, once it runs" in lines
        assert "Asks for:    1 core, 537 MB memory, 105 MB scratch, at most 10 min 0 s" in lines
        assert "As:          account owls2024, partition core" in lines

    def test_a_plan_that_is_spread_says_over_what(self, shell: Shell, gateway: FakeGateway) -> None:
        """How many jobs, what each of them asks for, and the one that joins what they made."""
        each = {"tasks": 5, "cores": 2, "memory_mb": 1024, "minutes": 15, "scratch_mb": 900, "expected_s": 400}
        gateway.answers["POST /projects/vole/queries/plan"] = {**plan(), "shards": 5, "spread": each}
        lines = shell("query", "plan", "--all-samples").stdout.splitlines()
        assert "Works in:    5 shards as jobs of their own, then one that joins them" in lines
        assert "Each shard:  asks for 2 cores, 1.1 GB memory, 944 MB scratch, at most 15 min 0 s" in lines
        assert "Asks for:    1 core, 537 MB memory, 105 MB scratch, at most 10 min 0 s, to join them" in lines

    def test_options_become_the_query(self, shell: Shell, gateway: FakeGateway) -> None:
        """Every option reaches the gateway."""
        shell(
            *("query", "run", "--where", "Area:N", "-c", "view -r 21:1-2", "--files", "a*", "--files", "b"),
            *("--after", "norm -m -any", "--output", "bcf", "--level", "9", "--name", "mine"),
        )
        assert json.loads(gateway.requests("POST /api/v1/projects/vole/jobs")[0].body) == {
            "where": "Area:N",
            "command": "view -r 21:1-2",
            "after": "norm -m -any",
            "files": ["a*", "b"],
            "output": "bcf",
            "level": 9,
            "name": "mine",
        }

    def test_run_and_download(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """--download waits for the end and fetches every file of the result."""
        gateway.job_states["job1"] = ["SUCCEEDED"]
        for name in ("result.vcf.gz", "result.vcf.gz.csi"):
            gateway.store(f"results/job1/{name}", name.encode())
        shell("query", "run", "--all-samples", "--download", str(tmp_path / "out"))
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["result.vcf.gz", "result.vcf.gz.csi"]

    def test_an_earlier_answer(self, shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
        """What an earlier job answered is said with its date and fetched at once; nobody waits for it."""
        gateway.answers["POST /projects/vole/jobs"] = {**job("job7", "SUCCEEDED"), "reused": True}
        gateway.store("results/job7/result.vcf.gz", b"records")
        result = shell("query", "run", "--all-samples", "--download", str(tmp_path))
        ran = local_time(datetime(2024, 5, 1, 10, 5, tzinfo=UTC))
        assert f"answered by job job7, which ran on {ran}; --fresh runs it again" in result.stderr
        assert (tmp_path / "result.vcf.gz").read_bytes() == b"records"
        assert gateway.requests("GET /api/v1/projects/vole/jobs/job7")[0].path.endswith("/result")
        assert shell.json("query", "run", "--all-samples")["reused"] is True
        assert "divbase jobs result job7 --download DIR" in shell("query", "run", "--all-samples", "--wait").stderr

    def test_fresh(self, shell: Shell, gateway: FakeGateway) -> None:
        """--fresh reaches the gateway; without it nothing is said, which older gateways understand too."""
        shell("query", "run", "--all-samples", "--fresh")
        shell("query", "run", "--all-samples")
        bodies = [json.loads(one.body) for one in gateway.requests("POST /api/v1/projects/vole/jobs")]
        assert bodies == [{"all_samples": True, "fresh": True}, {"all_samples": True}]

    @pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "LOST"])
    def test_end_without_success(self, shell: Shell, gateway: FakeGateway, state: str) -> None:
        """A job that ended badly is exit code 8, and the log is named."""
        gateway.job_states["job1"] = [state]
        result = shell("query", "run", "--all-samples", "--wait", code=ExitCode.JOB_FAILED)
        assert "divbase jobs logs job1" in result.stderr

    def test_waiting_with_json(self, shell: Shell, gateway: FakeGateway) -> None:
        """Standard output is one document, the job at its end."""
        gateway.job_states["job1"] = ["SUCCEEDED"]
        assert shell.json("query", "run", "--all-samples", "--wait")["state"] == "SUCCEEDED"

    def test_script_is_printed_as_it_is(self, shell: Shell) -> None:
        """`query script` can be redirected into a file and run."""
        assert shell("query", "script", "--all-samples").stdout == "#!/bin/bash\n"


class TestSnapshots:
    def test_create_and_list(self, shell: Shell, gateway: FakeGateway) -> None:
        """Name and note reach the gateway, and a note that could fool a terminal comes back as escapes."""
        assert shell("snapshots", "create", "paper-1", "--note", "\x1b[2Jgone").stdout == "paper-1: 2 files, 7 B\n"
        listed = shell("snapshots", "ls").stdout
        assert listed.splitlines()[0] == "SNAPSHOT\tFILES\tSIZE\tBY\tCREATED\tNOTE"
        assert "\\x1b[2Jgone" in listed
        assert shell.json("snapshots", "ls") == list(gateway.snapshots.values())

    def test_show_says_what_has_become_of_the_files(self, shell: Shell, gateway: FakeGateway) -> None:
        """A file that changed since, one that was deleted and one that is as it was are told apart."""
        for key in ("a.vcf.gz", "b.vcf.gz", "c.vcf.gz"):
            gateway.store(key, b"1")
        shell("snapshots", "create", "paper-1")
        gateway.store("b.vcf.gz", b"2")
        gateway.files["c.vcf.gz"][0].deleted = True
        rows = [line.split("\t") for line in shell("snapshots", "show", "paper-1").stdout.splitlines()[-3:]]
        assert [(row[0], row[4], row[5]) for row in rows] == [
            ("a.vcf.gz", "the same", "v1"),
            ("b.vcf.gz", "changed", "v1"),
            ("c.vcf.gz", "deleted", "v1"),
        ]
        assert len(shell.json("snapshots", "show", "paper-1")["file_list"]) == 3

    def test_rm(self, shell: Shell, gateway: FakeGateway) -> None:
        """A removed snapshot is gone, and one that is not there is exit code 4."""
        shell("snapshots", "create", "paper-1")
        assert "the files stay" in shell("snapshots", "rm", "paper-1").stdout
        assert gateway.snapshots == {}
        shell("snapshots", "show", "paper-1", code=ExitCode.NOT_FOUND)

    @pytest.mark.parametrize("verb", ["plan", "script", "run"])
    def test_questions_at_a_snapshot(self, shell: Shell, gateway: FakeGateway, verb: str) -> None:
        """--at reaches the gateway, whatever is asked of the query."""
        shell("query", verb, "--all-samples", "--at", "paper-1")
        assert json.loads(gateway.requests("POST /api/v1/projects/vole/")[0].body)["at"] == "paper-1"


class TestJobs:
    def test_watch_prints_changes(self, shell: Shell, gateway: FakeGateway) -> None:
        """Where no person looks, one line for each change of state goes to standard error."""
        shell("query", "run", "--all-samples")
        gateway.job_states["job1"] = ["RUNNING", "SUCCEEDED"]
        lines = shell("jobs", "watch", "job1").stderr.splitlines()
        assert lines[:2] == ["job job1: RUNNING running 50 %", "job job1: SUCCEEDED"]

    def test_logs(self, shell: Shell) -> None:
        """The log is printed as it is."""
        assert shell("jobs", "logs", "job1").stdout == "line one\nline two\n"

    @pytest.mark.parametrize(("state", "words"), [("RUNNING", "has not ended"), ("SUCCEEDED", "is not stored")])
    def test_logs_that_are_not_stored(self, shell: Shell, gateway: FakeGateway, state: str, words: str) -> None:
        """It is said why this is not the whole: the job runs, or its log is not there, or not yet."""
        shell("query", "run", "--all-samples")
        gateway.logs_are_stored = False
        gateway.job_states["job1"] = [state]
        assert words in shell("jobs", "logs", "job1").stderr

    def test_unknown_job(self, shell: Shell) -> None:
        """A job that is not there is exit code 4."""
        shell("jobs", "show", "nope", code=ExitCode.NOT_FOUND)

    def test_cancel(self, shell: Shell) -> None:
        """cancel prints the state that it left behind."""
        shell("query", "run", "--all-samples")
        assert shell("jobs", "cancel", "job1").stdout == "job job1: CANCELLED\n"


class TestKeys:
    def test_secret_is_alone_on_standard_output(self, shell: Shell, gateway: FakeGateway) -> None:
        """`divbase keys create x > file` keeps the secret and nothing else."""
        gateway.answers["POST /keys"] = {**api_key(), "secret": "dvb_a.b"}
        assert shell("keys", "create", "laptop").stdout == "dvb_a.b\n"

    def test_key_without_end(self, shell: Shell, gateway: FakeGateway) -> None:
        """--days 0 says never in so many words; left out, the gateway's 90 days hold."""
        gateway.answers["POST /keys"] = {**api_key(), "secret": "dvb_a.b"}
        shell("keys", "create", "robot", "--days", "0")
        assert json.loads(gateway.requests("POST /api/v1/keys")[0].body) == {"name": "robot", "expires_in_days": None}


@pytest.mark.slow  # a new process each
class TestCompletion:
    def complete(self, shell: Shell, line: str) -> list[str]:
        variables = {"_DIVBASE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", "from divbase_cli.main import run; run()"],
            env={**os.environ, **{name: value for name, value in shell.environment.items() if value}, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.split()

    def test_keys_jobs_and_projects(self, shell: Shell, gateway: FakeGateway) -> None:
        """The shell completes what the gateway has."""
        gateway.store("chr21.vcf.gz", b"")
        shell("query", "run", "--all-samples")
        assert self.complete(shell, "divbase files info chr") == ["chr21.vcf.gz"]
        assert self.complete(shell, "divbase jobs show ") == ["job1"]
        assert self.complete(shell, "divbase files ls --project ") == ["vole"]

    def test_without_gateway_it_is_silent(self, fresh: Shell) -> None:
        """No error is written into the middle of a command line."""
        assert self.complete(fresh, "divbase jobs show ") == []


class TestChoices:
    def test_choices_are_those_of_the_wire(self) -> None:
        """The values that the commands offer without loading the wire models are the models' own."""
        assert list(get_args(members_module.RoleName)) == [one.value for one in Role]
        assert list(get_args(jobs_module.StateName)) == [one.value for one in JobState]
        assert list(get_args(query_module.Format)) == [one.value for one in OutputFormat]

    def test_reference_is_up_to_date(self) -> None:
        """docs/cli.md is what the commands say; run `python -m divbase_cli.reference docs/cli.md` after a change."""
        assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == render()

    def test_every_command_has_help_with_an_example(self) -> None:
        """Each command explains itself with an example that begins with its own name."""
        found = {f"divbase {one.name}": one for one in app.registered_commands}
        for group in app.registered_groups:
            assert group.typer_instance is not None
            found |= {
                f"divbase {group.typer_instance.info.name} {one.name}": one
                for one in group.typer_instance.registered_commands
            }
        assert len(found) >= 40
        for name, command in found.items():
            text, _, example = str(command.help).partition("Example:")
            assert text.strip("\b\n "), name
            assert name in example, name

    def test_help_is_quick_to_load(self) -> None:
        """`divbase --help` loads neither the HTTP client nor the tables nor the models."""
        code = "import sys, divbase_cli.main; print(sorted({'httpx', 'rich', 'pydantic'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"

    def test_a_choice_that_is_none_is_refused_with_the_choices(self, capsys: pytest.CaptureFixture[str]) -> None:
        """In words, without those of the library that checks them."""
        with pytest.raises(SystemExit) as ended:
            run(["jobs", "ls", "--state", "nonsense"])
        told = capsys.readouterr().err
        assert ended.value.code == 2
        assert told.startswith("divbase: Invalid value for '--state': 'nonsense' is not one of 'accepted', ")


def test_the_version_is_told_without_a_gateway(shell: Shell, gateway: FakeGateway) -> None:
    """Guards: `--version`, which people type first, also where the gateway is away."""
    assert shell("--version").stdout == f"divbase {version('divbase-cli')}\n"
    assert gateway.seen == []
