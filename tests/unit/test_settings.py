"""The settings tree: precedence, sources, masking, and faults that name the setting and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from divbase_gateway.settings import InvalidSettings, Settings, Source, leaves, load, markdown

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no ./divbase.toml of whoever runs the tests."""
    for variable in [leaf.variable for leaf in leaves()] + ["DIVBASE_GATEWAY_CONFIG"]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(text, "utf-8")
    return path


def source_of(loaded_name: str, config: Path | None = None) -> tuple[str, Source]:
    line = next(line for line in load(config).lines() if line.name == loaded_name)
    return line.value, line.source


def test_without_file_and_variables_everything_is_default() -> None:
    """A fresh machine needs no settings at all."""
    loaded = load()

    assert loaded.settings == Settings()
    assert {line.source for line in loaded.lines()} == {Source.DEFAULT}


def test_file_wins_over_default(tmp_path: Path) -> None:
    """A value in the file holds, its neighbours stay at their defaults."""
    config = write(tmp_path, "[jobs]\nmax_attempts = 5\n")

    settings = load(config).settings
    assert settings.jobs.max_attempts == 5
    assert settings.jobs.retry_for_s == 600
    assert source_of("jobs.max_attempts", config) == ("5", Source.FILE)


def test_variable_wins_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment before file, for one value and not for its whole group."""
    config = write(tmp_path, "[jobs]\nmax_attempts = 5\nretry_for_s = 60\n")
    monkeypatch.setenv("DIVBASE_JOBS__MAX_ATTEMPTS", "7")

    settings = load(config).settings
    assert (settings.jobs.max_attempts, settings.jobs.retry_for_s) == (7, 60)
    assert source_of("jobs.max_attempts", config) == ("7", Source.ENVIRONMENT)


def test_lists_are_json_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list can be set by a variable."""
    monkeypatch.setenv("DIVBASE_JOBS__PROLOGUE", '["module load bcftools", "umask 077"]')

    assert load().settings.jobs.prologue == ["module load bcftools", "umask 077"]


def test_the_file_in_the_working_directory_is_read(tmp_path: Path) -> None:
    """./divbase.toml needs no option."""
    (tmp_path / "divbase.toml").write_text('[s3]\nregion = "eu-north-1"\n')

    assert load().settings.s3.region == "eu-north-1"


def test_the_file_can_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DIVBASE_GATEWAY_CONFIG says where the file is."""
    monkeypatch.setenv("DIVBASE_GATEWAY_CONFIG", str(write(tmp_path, "[server]\nport = 9000\n")))

    assert load().settings.server.port == 9000


def test_the_file_of_the_command_line_is_not_the_gateways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DIVBASE_CONFIG is what `divbase` reads; on a machine with both, it says nothing to the gateway."""
    monkeypatch.setenv("DIVBASE_CONFIG", str(write(tmp_path, '[profiles.default]\nurl = "http://x"\n')))

    assert load().file is None


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A file that was asked for and is not there must not silently mean the defaults."""
    with pytest.raises(InvalidSettings, match=r"no settings file .*gone\.toml"):
        load(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[s3]\nendpiont = 'http://x'\n", "there is no setting 's3.endpiont'; is it 's3.endpoint'"),
        ("[databse]\nurl = 'x'\n", "there is no setting or table 'databse'; is it 'database'"),
        ("server = 3\n", "'server' must be a table"),
        ("[jobs]\nmax_attempts = 'many'\n", "jobs.max_attempts: Input should be a valid integer"),
        ("[server\n", "is not a TOML file"),
    ],
)
def test_a_fault_in_the_file_is_told_with_its_name(tmp_path: Path, text: str, words: str) -> None:
    """Unknown names are errors that name close ones; bad values name the setting."""
    with pytest.raises(InvalidSettings) as caught:
        load(write(tmp_path, text))

    assert words in caught.value.message


def test_every_unknown_name_is_told_at_once(tmp_path: Path) -> None:
    """An operator corrects a file in one go."""
    with pytest.raises(InvalidSettings) as caught:
        load(write(tmp_path, "[s3]\nfoo = 1\nbar = 2\n"))

    faults = caught.value.details["faults"]
    assert isinstance(faults, list)
    assert len(faults) == 2


def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that nobody reads is told, with what was probably meant."""
    monkeypatch.setenv("DIVBASE_S3__ENDPIONT", "http://x")

    with pytest.raises(InvalidSettings, match="DIVBASE_S3__ENDPIONT sets nothing; is it 'DIVBASE_S3__ENDPOINT'"):
        load()


def test_variables_of_the_client_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """DIVBASE_URL and DIVBASE_PROJECT belong to the command line on the same machine."""
    monkeypatch.setenv("DIVBASE_URL", "http://x")
    monkeypatch.setenv("DIVBASE_PROJECT", "demo")

    assert load().settings == Settings()


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message leads to the variable, not to the file."""
    monkeypatch.setenv("DIVBASE_SERVER__PORT", "eighty")

    with pytest.raises(InvalidSettings, match=r"the variable DIVBASE_SERVER__PORT: server\.port"):
        load()


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    """Neither the secret key nor a password inside the database's URL is printed."""
    config = write(
        tmp_path,
        "[s3]\nsecret_key = 'hush'\n[database]\nurl = 'postgresql+psycopg://divbase:s3cr:et@db/divbase'\n",
    )

    shown = {line.name: line.value for line in load(config).lines()}
    assert shown["s3.secret_key"] == "********"
    assert shown["database.url"] == "postgresql+psycopg://divbase:********@db/divbase"
    assert "hush" not in repr(load(config).settings)


def test_s3_has_one_name_unless_told_otherwise() -> None:
    """Laptops and jobs use the gateway's own endpoint where none of theirs is set."""
    settings = Settings.model_validate({"s3": {"endpoint": "http://a", "node_endpoint": "http://c"}})

    assert settings.s3.laptop_endpoint == "http://a"
    assert settings.s3.job_endpoint == "http://c"


def test_every_setting_says_what_it_means() -> None:
    """No setting without a description."""
    assert [leaf.name for leaf in leaves() if not leaf.description] == []


def test_the_page_of_the_documentation_is_up_to_date() -> None:
    """docs/settings.md is generated; a changed setting without it fails here."""
    assert PAGE.read_text("utf-8") == markdown(), "run: divbase-gateway settings --markdown > docs/settings.md"
