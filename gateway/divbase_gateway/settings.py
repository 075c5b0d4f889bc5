"""The settings of the gateway: one tree, read from a TOML file and `DIVBASE_…` variables, each value with its source.

It knows names, units and defaults, and nothing of what the rest of the gateway does with them.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from divbase_gateway.domain.errors import InvalidRequest

ENV_PREFIX = "DIVBASE_"
CONFIG_VARIABLE = "DIVBASE_GATEWAY_CONFIG"
DEFAULT_FILE = Path("divbase.toml")


_SUFFIXES = (".vcf.gz", ".vcf.bgz", ".vcf", ".bcf", ".csi", ".tbi", ".tsv", ".csv", ".txt", ".md", ".bed", ".json")


_LABEL = r"^[A-Za-z0-9._:,=+-]+$"
"""What may stand in an `#SBATCH` line."""


class InvalidSettings(InvalidRequest):
    """The settings cannot be used. `details`: `faults`, a list of sentences, each naming the setting."""

    code = "invalid_settings"


class Group(BaseModel):
    """A table of the file. Values never change after start; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatabaseSettings(Group):
    url: str = Field(
        "sqlite:///divbase.sqlite3",
        description="Where the rows are: `sqlite:///path` (relative to the working directory) or "
        "`postgresql+psycopg://user:password@host/name`.",
        json_schema_extra={"secret": "url"},
    )
    pool_size: int = Field(10, ge=1, description="Connections kept open by each gateway process.")


class S3Settings(Group):
    endpoint: str = Field("http://127.0.0.1:8333", description="URL under which the gateway itself reaches S3.")
    public_endpoint: str | None = Field(
        None, description="URL under which laptops reach S3; presigned URLs for them carry it. Empty: as `endpoint`."
    )
    node_endpoint: str | None = Field(
        None,
        description="URL under which compute nodes reach S3; presigned URLs for jobs carry it. Empty: as `endpoint`.",
    )
    region: str = Field("us-east-1", description="Region that requests are signed for.")
    access_key: str = Field("", description="Access key id of the gateway's own S3 account.")
    secret_key: SecretStr = Field(
        SecretStr(""), description="Secret key of that account. Better set by variable than file."
    )
    bucket_prefix: str = Field(
        "divbase-", description="Put before a project's name to name its new bucket (lower-case letters, digits, `-`)."
    )

    @property
    def laptop_endpoint(self) -> str:
        return self.public_endpoint or self.endpoint

    @property
    def job_endpoint(self) -> str:
        return self.node_endpoint or self.endpoint


class ServerSettings(Group):
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    public_url: str | None = Field(
        None, description="URL under which laptops reach the gateway. Empty: made of `host` and `port`."
    )
    node_url: str | None = Field(
        None, description="URL under which compute nodes reach the gateway. Empty: as `public_url`."
    )
    max_body_mib: int = Field(8, ge=1, description="Largest request body, in MiB; files never come through here.")
    log_format: Literal["json", "console"] = Field(
        "json", description="One JSON object a line, or text for a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")

    @property
    def laptop_url(self) -> str:
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def job_url(self) -> str:
        return (self.node_url or self.laptop_url).rstrip("/")


class SchedulerSettings(Group):
    kind: Literal["local", "slurm-ssh", "slurm-local", "pyslurm"] = Field(
        "local",
        description="Who runs jobs: `local` is the embedded scheduler here, `slurm-ssh` SLURM through a login "
        "node, `slurm-local` SLURM's commands on this machine, `pyslurm` SLURM's library on this machine.",
    )
    folder: Path = Field(
        Path("divbase-jobs"), description="Folder of the local scheduler: a folder for each job, and its own state."
    )
    slots: int = Field(2, ge=1, description="Jobs that the local scheduler runs at the same time.")
    cluster: str = Field("slurm", pattern=_LABEL, description="SLURM: the cluster's name; do not change it later.")
    work_dir: PurePosixPath | None = Field(
        None,
        description="SLURM: absolute folder for a directory of each job, the same on login node and compute nodes; "
        "made by the operator, mode 0700.",
    )
    bin_dir: PurePosixPath = Field(PurePosixPath("/usr/bin"), description="SLURM: absolute folder of its commands.")
    slurm_conf: PurePosixPath | None = Field(
        None, description="SLURM: `SLURM_CONF` for its commands. Empty: they find it by themselves."
    )
    pyslurm_python: PurePosixPath | None = Field(
        None,
        description="pyslurm: absolute path of the Python that has pyslurm. Empty: the one that the gateway runs on.",
    )
    account: str | None = Field(None, pattern=_LABEL, description="SLURM: account of jobs. Empty: the user's default.")
    partition: str | None = Field(None, pattern=_LABEL, description="SLURM: partition of jobs. Empty: the default.")
    qos: str | None = Field(None, pattern=_LABEL, description="SLURM: QOS of jobs. Empty: the default.")
    wckey: str | None = Field(None, pattern=_LABEL, description="SLURM: wckey of jobs. Empty: none.")
    tick_s: float = Field(
        30.0, gt=0, description="SLURM: seconds between two looks while nothing happens; jobs report by themselves."
    )
    between_looks_s: float = Field(
        3.0, ge=0, description="SLURM: least seconds between two looks, however much happens."
    )
    submit_at_once: int = Field(
        4, ge=1, le=16, description="SLURM: submissions under way at the same time; through SSH never more than 4."
    )
    quiet_s: int = Field(
        300, ge=0, description="SLURM: seconds of successful, empty searches before a lost submission goes out again."
    )
    ssh_host: str | None = Field(None, description="SSH: login node.")
    ssh_port: int = Field(22, ge=1, le=65535, description="SSH: port of its sshd.")
    ssh_user: str | None = Field(None, description="SSH: account that submits, for DivBase alone.")
    ssh_key_file: Path | None = Field(None, description="SSH: private key without a passphrase, mode 0600.")
    ssh_known_hosts: Path | None = Field(
        None, description="SSH: pinned host keys, as in `~/.ssh/known_hosts`. A host with another key is refused."
    )
    ssh_agent: bool = Field(False, description="SSH: also try the keys of the agent at `SSH_AUTH_SOCK`.")


class JobSettings(Group):
    max_attempts: int = Field(3, ge=1, description="Attempts of one job at faults that another attempt may get over.")
    tick_s: float = Field(1.0, gt=0, description="Seconds between two looks of the reconciler at the scheduler.")
    url_expiry_s: int = Field(3600, ge=60, le=604800, description="Seconds that a presigned URL is good for.")
    node_access: Literal["gateway", "manifest"] = Field(
        "gateway",
        description="How compute nodes get at data: `gateway`: they ask the gateway as they go; `manifest`: they reach "
        "S3 only, and all their URLs are signed at submission.",
    )
    manifest_expiry_s: int = Field(
        604800,
        ge=60,
        le=604800,
        description="`manifest`: seconds from submission that its URLs are good for, queue and run together; S3 ends "
        "at seven days.",
    )
    lost_after_s: int = Field(
        900, ge=1, description="Seconds of successful looks without a sign of a job before it is called lost."
    )
    retry_for_s: int = Field(
        600, ge=1, description="Seconds that a job keeps trying a gateway or S3 that does not answer."
    )
    cache_dir: PurePosixPath | None = Field(
        None,
        description="Absolute folder on the scratch of the compute nodes, shared or each node's own, in which jobs "
        "keep what queries fetch for each other; made by the first, mode 0700. Empty: no cache.",
    )
    cache_gb: int = Field(100, ge=1, description="Most that `cache_dir` may hold, in GB (10^9 bytes).")
    result_days: int | None = Field(
        None,
        ge=1,
        le=3650,
        description="Days that results are kept after their last use, where their project does not say otherwise; the "
        "first week after a change nothing is removed. Empty: for ever.",
    )
    spread_after_s: int | None = Field(
        None,
        ge=0,
        description="A query that would keep one job busy for more seconds is spread over several jobs, and one that "
        "joins what they made; 0: never. Empty: 900 on a cluster, never on one machine.",
    )
    prologue: list[str] = Field(
        default_factory=list,
        description="Lines of shell at the start of every job, for example `module load bcftools`.",
    )


class FileSettings(Group):
    allowed_suffixes: list[str] = Field(
        default_factory=lambda: list(_SUFFIXES),
        description="Endings of file names that may be uploaded; an empty list allows all.",
    )
    part_size_mib: int = Field(
        8, ge=5, le=5120, description="Files above this size, in MiB, are uploaded in parts of this size."
    )
    max_size_gib: int = Field(5120, ge=1, le=5120, description="Largest file, in GiB; S3 itself ends at 5120.")


class LimitSettings(Group):
    api_key_days: int = Field(3650, ge=1, description="Longest life of a new API key, in days.")
    keys_per_user: int = Field(100, ge=1, description="API keys that one user may have at a time, revoked ones aside.")
    open_jobs_per_user: int | None = Field(
        None, ge=0, description="Query jobs of one user, in all projects, that have not ended. Empty: no limit."
    )
    open_jobs_per_project: int | None = Field(
        None, ge=0, description="The same of one project, where it has no number of its own. Empty: no limit."
    )
    core_hours_per_user_month: float | None = Field(
        None, ge=0, description="Core-hours of one user's jobs a month, in all projects. Empty: no limit."
    )
    core_hours_per_project_month: float | None = Field(
        None, ge=0, description="The same of one project, where it has no number of its own. Empty: no limit."
    )
    gb_per_project: int | None = Field(
        None,
        ge=0,
        description="GB (10^9 bytes) that files, their older versions, indexes and results of one project may take, "
        "where it has no number of its own. Empty: no limit.",
    )
    max_cores: int | None = Field(
        None, ge=1, description="Cores of one job, where its project has no number of its own. Empty: what it asks."
    )
    max_memory_mb: int | None = Field(
        None, ge=1, description="Memory of one job in MB (2^20 bytes), as before; more is refused. Empty: what it asks."
    )
    max_minutes: int | None = Field(
        None, ge=1, description="Time limit of one job in minutes, as before; more is refused. Empty: what it asks."
    )


class IdempotencySettings(Group):
    keep_days: int = Field(7, ge=1, description="Days that an `Idempotency-Key` and its answer are remembered.")


class Settings(Group):
    """The whole tree. Built in code it has defaults for what is left out; `load` reads file and environment."""

    database: DatabaseSettings = Field(default_factory=DatabaseSettings, description="The database.")
    s3: S3Settings = Field(default_factory=S3Settings, description="The object store, under the names that each sees.")
    server: ServerSettings = Field(default_factory=ServerSettings, description="The HTTP server and its logs.")
    scheduler: SchedulerSettings = Field(default_factory=SchedulerSettings, description="What runs the jobs.")
    jobs: JobSettings = Field(default_factory=JobSettings, description="How jobs are run and followed.")
    files: FileSettings = Field(default_factory=FileSettings, description="What may be uploaded, and how.")
    limits: LimitSettings = Field(
        default_factory=LimitSettings, description="Bounds that keep one user from hurting all."
    )
    idempotency: IdempotencySettings = Field(
        default_factory=IdempotencySettings, description="Repeats of a request that creates something."
    )


class _Environment(Settings, BaseSettings):
    """Only here to say to pydantic-settings how the variables are named."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True)


class Source(StrEnum):
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True)
class Setting:
    """One value for display: `name` is dotted, `value` as text with secrets masked."""

    name: str
    value: str
    source: Source
    description: str


@dataclass(frozen=True)
class LoadedSettings:
    """The settings and where each came from; `file` is None where no file was read."""

    settings: Settings
    file: Path | None
    from_file: frozenset[str]
    from_environment: frozenset[str]

    def lines(self) -> list[Setting]:
        """Every setting in the order of the tree, with its source."""
        return [
            Setting(
                leaf.name, _shown(leaf, _value_at(self.settings, leaf.name)), self._source(leaf.name), leaf.description
            )
            for leaf in leaves()
        ]

    def with_server(self, **given: object) -> LoadedSettings:
        """The same with these values of `server`, where they are not None: what was given on the command line."""
        chosen = {name: value for name, value in given.items() if value is not None}
        server = self.settings.server.model_copy(update=chosen)
        return replace(self, settings=self.settings.model_copy(update={"server": server}))

    def _source(self, name: str) -> Source:
        if name in self.from_environment:
            return Source.ENVIRONMENT
        return Source.FILE if name in self.from_file else Source.DEFAULT


@dataclass(frozen=True)
class Leaf:
    """One name of the tree."""

    name: str
    field: FieldInfo

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.name.upper().replace(".", "__")

    @property
    def description(self) -> str:
        return self.field.description or ""


def leaves() -> Iterator[Leaf]:
    """Every setting there is, in the order of the tree."""
    for group_name, group in Settings.model_fields.items():
        assert isinstance(group.annotation, type)  # noqa: S101 - the tree has two levels, and this says so to mypy
        for name, field in _fields(group.annotation).items():
            yield Leaf(f"{group_name}.{name}", field)


def load(config: Path | None = None) -> LoadedSettings:
    """Read the settings: environment before file before default.

    Args:
        config: the file; None for `$DIVBASE_GATEWAY_CONFIG`, else `./divbase.toml` if there is one.

    Raises:
        InvalidSettings: with every fault of file and environment at once.
    """
    path = _config_path(config)
    file_tree = _read_file(path) if path else {}
    names = [leaf.name for leaf in leaves()]
    faults = [*_unknown_in_file(file_tree, names, path), *_unknown_variables(names)]
    if faults:
        raise _invalid(faults)
    env_tree = _read_environment()
    try:
        settings = Settings.model_validate(_merged(file_tree, env_tree))
    except ValidationError as error:
        raise _invalid([_fault_words(fault, env_tree, path) for fault in error.errors()]) from error
    return LoadedSettings(settings, path, frozenset(_names(file_tree)), frozenset(_names(env_tree)))


def markdown() -> str:
    """The page of the documentation: a table for every group, from the tree itself."""
    lines = [_MARKDOWN_HEAD]
    for group_name, group in Settings.model_fields.items():
        lines += [f"\n## `[{group_name}]`\n", f"{group.description}\n", "| name | default | meaning |", "|---|---|---|"]
        for leaf in leaves():
            if leaf.name.startswith(f"{group_name}."):
                default = _shown(leaf, _value_at(Settings(), leaf.name)) or " "
                lines.append(f"| `{leaf.name.split('.')[1]}` | `{default}` | {leaf.description} |")
    return "\n".join(lines) + "\n"


_MARKDOWN_HEAD = """# Settings of the gateway

This page is generated: `divbase-gateway settings --markdown > docs/settings.md`.

Settings are read from a TOML file (`--config`, else the variable `DIVBASE_GATEWAY_CONFIG`, else `divbase.toml` in the
working directory) and from environment variables. A variable wins over the file, the file over the default.
The variable of a setting is `DIVBASE_`, its group, two underscores and its name, in capitals:
`database.url` is `DIVBASE_DATABASE__URL`. Lists are written as JSON in a variable. `divbase-gateway settings` prints
what holds, and where each value came from.

```toml
[database]
url = "postgresql+psycopg://divbase@db.example.org/divbase"

[s3]
endpoint = "https://s3.example.org"
access_key = "divbase"        # the secret: DIVBASE_S3__SECRET_KEY
```"""


def _fields(group: type) -> dict[str, FieldInfo]:
    assert issubclass(group, Group)  # noqa: S101 - see leaves()
    return group.model_fields


def _config_path(config: Path | None) -> Path | None:
    if config is None and (named := os.environ.get(CONFIG_VARIABLE)):
        config = Path(named)
    if config is None:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    if not config.is_file():
        raise InvalidSettings(
            f"There is no settings file {config}.", hint=f"Correct --config or {CONFIG_VARIABLE}, or make the file."
        )
    return config


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} is not a TOML file: {error}.") from error


def _read_environment() -> dict[str, Any]:
    try:
        return dict(EnvSettingsSource(_Environment)())
    except SettingsError as error:
        words = f"A {ENV_PREFIX}… variable cannot be read: {error}."
        raise InvalidSettings(words, hint="Lists and tables are written as JSON in a variable.") from error


def _unknown_in_file(tree: Mapping[str, Any], known: list[str], path: Path | None) -> Iterator[str]:
    groups = set(Settings.model_fields)
    for group, values in tree.items():
        if group not in groups:
            yield f"{path}: there is no setting or table '{group}'{_close(group, [*groups, *known])}"
        elif not isinstance(values, dict):
            yield f"{path}: '{group}' must be a table, written as [{group}]"
        else:
            for name in values:
                if f"{group}.{name}" not in known:
                    yield f"{path}: there is no setting '{group}.{name}'{_close(f'{group}.{name}', known)}"


def _unknown_variables(known: list[str]) -> Iterator[str]:
    """Variables of ours that nobody reads. Those without `__` may be the client's (`DIVBASE_URL`)."""
    variables = {ENV_PREFIX + name.upper().replace(".", "__"): name for name in known}
    for variable in sorted(os.environ):
        if variable.upper().startswith(ENV_PREFIX) and "__" in variable and variable.upper() not in variables:
            yield f"the variable {variable} sets nothing{_close(variable.upper(), list(variables))}"


def _close(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"; is it {' or '.join(repr(match) for match in matches)}?" if matches else ""


def _fault_words(fault: Any, env_tree: Mapping[str, Any], path: Path | None) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    setting = ".".join(str(part) for part in fault["loc"][:2])
    where = f"the variable {Leaf(setting, FieldInfo()).variable}" if setting in set(_names(env_tree)) else str(path)
    return f"{where}: {name}: {fault['msg']}"


def _invalid(faults: list[str]) -> InvalidSettings:
    return InvalidSettings(
        "The settings cannot be used: " + "; ".join(faults) + ".",
        hint="`divbase-gateway settings --markdown` lists every setting.",
        details={"faults": faults},
    )


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    return {group: {**low.get(group, {}), **high.get(group, {})} for group in {**low, **high}}


def _names(tree: Mapping[str, Any]) -> Iterator[str]:
    for group, values in tree.items():
        for name in values:
            yield f"{group}.{name}"


def _value_at(settings: Settings, name: str) -> object:
    group, leaf = name.split(".")
    value: object = getattr(getattr(settings, group), leaf)
    return value


def _shown(leaf: Leaf, value: object) -> str:
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    if isinstance(leaf.field.json_schema_extra, dict) and leaf.field.json_schema_extra.get("secret") == "url":
        return _without_password(str(value))
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, list) else str(value)


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    if not at or ":" not in credentials:
        return url
    return f"{scheme}{separator}{credentials.partition(':')[0]}:********@{host}"
