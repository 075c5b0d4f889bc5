"""Turns the description of a job into the text of its batch script, and hands out the node helper that runs beside it.

Parameters in, text out: this module knows nothing of the gateway, of SLURM's answers or of S3, and reads no clock and
no environment, so equal input gives equal bytes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

SBATCH_VALUE = re.compile(r"[A-Za-z0-9._:,=+-]+")
PROCESS_ID = re.compile(r"[a-z0-9.]+")
STAGED_INPUT = re.compile(r"in/([0-9]+)\.")


@dataclass(frozen=True)
class Header:
    """The `#SBATCH` lines.

    Every text consists of `A-Z a-z 0-9 . _ : , = + -` and is not empty; None leaves its line out.

    Attributes:
        job_name, comment: what people see in squeue and sacct.
        cores: cores of one node.
        memory_mb: memory of the whole job in MiB.
        minutes: time limit.
    """

    job_name: str
    comment: str
    cores: int
    memory_mb: int
    minutes: int
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    wckey: str | None = None


@dataclass(frozen=True)
class ScriptInput:
    """A file that the job reads, for the comments only: its key may hold any character.

    `is_copy`: what is read is its BCF copy.
    """

    number: int
    key: str
    is_copy: bool = False


@dataclass(frozen=True)
class ScriptProcess:
    """One bcftools process, as `Process` of the gateway's plan: see docs/node-protocol.md, "The script"."""

    id: str
    argv: tuple[str, ...]
    sources: tuple[str, ...] = ()
    materialise: bool = False
    output: str | None = None


@dataclass(frozen=True)
class QueryScript:
    """A query job.

    Attributes:
        processes: sources before their readers.
        result: path of the result relative to the scratch folder, such as `out/result.vcf.gz`.
        prologue: the site's own bash lines, taken as they are, such as `module load bcftools/1.24`.
    """

    header: Header
    inputs: tuple[ScriptInput, ...]
    processes: tuple[ScriptProcess, ...]
    result: str
    prologue: tuple[str, ...] = ()

    @property
    def prints_result(self) -> bool:
        """Whether the result is text that the last process prints: it is not told to write it."""
        return bool(self.processes) and self.result not in self.processes[-1].argv


@dataclass(frozen=True)
class IndexScript:
    """A job that builds the missing index of one file."""

    header: Header
    input: ScriptInput
    prologue: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepairScript:
    """A job that writes one file anew: as BGZF, and sorted.

    Attributes:
        result: path of the new file relative to the scratch folder, `out/repaired.vcf.gz` or `.bcf`.
        sort_memory_mb: of records that bcftools sort may hold, MiB.
    """

    header: Header
    input: ScriptInput
    result: str
    sort_memory_mb: int
    prologue: tuple[str, ...] = ()


@dataclass(frozen=True)
class SidecarScript:
    """A job that writes the BCF copy of one file. `result`: its path relative to the scratch folder."""

    header: Header
    input: ScriptInput
    result: str
    prologue: tuple[str, ...] = ()


class Raw(str):
    """Text that is bash already: the template engine does not quote it."""

    __slots__ = ()


def render_query(script: QueryScript) -> str:
    """The batch script of a query.

    Raises:
        ValueError: a header value, a process id or an argument that no script can carry; the message names it.
    """
    _check_processes(script.processes)
    keys = {each.number: each.key for each in script.inputs}
    steps = [(_caption(process, keys), process) for process in script.processes]
    return _template("query.sh.j2").render(script=script, header=script.header, steps=steps, prologue=script.prologue)


def render_index(script: IndexScript) -> str:
    """The batch script of an index job; raises ValueError like `render_query`."""
    return _template("index.sh.j2").render(script=script, header=script.header, prologue=script.prologue)


def render_repair(script: RepairScript) -> str:
    """The batch script of a repair; raises ValueError like `render_query`."""
    return _template("repair.sh.j2").render(script=script, header=script.header, prologue=script.prologue)


def render_sidecar(script: SidecarScript) -> str:
    """The batch script that writes a BCF copy; raises ValueError like `render_query`."""
    return _template("sidecar.sh.j2").render(script=script, header=script.header, prologue=script.prologue)


@cache
def node_helper_source() -> bytes:
    """The node helper, to be put beside the script as `divbase_node.py`."""
    return resources.files(__package__).joinpath("node.py").read_bytes()


# --- what the templates may use ----------------------------------------------------------------------------------


def quote(value: object) -> str:
    """One shell word, whatever is in it; the environment applies it to every value that a template prints."""
    if isinstance(value, Raw):
        return value
    return shlex.quote(_carriable(str(value)))


def words(values: Iterable[str]) -> Raw:
    """A list as shell words."""
    return Raw(" ".join(quote(value) for value in values))


def comment(text: str) -> Raw:
    """Text that cannot leave its comment line: in double quotes, with everything that is not printable escaped."""
    return Raw('"' + "".join(_shown(character) for character in text) + '"')


def sbatch(value: object, field: str) -> Raw:
    """The value of an `#SBATCH` option, which SLURM reads with rules of its own, hence the narrow alphabet."""
    text = str(value)
    if not SBATCH_VALUE.fullmatch(text):
        raise ValueError(f"header field {field} is {text!r}; it may hold only letters, digits and . _ : , = + -")
    return Raw(text)


def pipe_options(process: ScriptProcess) -> Raw:
    """The words between the id of a process and its `--`, each with a space before it."""
    options = [word for source in process.sources for word in ("--from", source)]
    if process.materialise:
        options.append("--materialise")
    if process.output is not None:
        options += ["--output", process.output]
    return Raw("".join(" " + quote(word) for word in options))


def _shown(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _carriable(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"{text!r} holds a NUL character, which no command can be given")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ValueError(f"{text!r} holds half of a character and cannot be written as UTF-8") from exc
    return text


def _check_processes(processes: Iterable[ScriptProcess]) -> None:
    known: set[str] = set()
    for process in processes:
        if not PROCESS_ID.fullmatch(process.id) or process.id in known:
            raise ValueError(f"process id {process.id!r} is not a new word of a-z, 0-9 and dots")
        for source in process.sources:
            if source not in known:
                raise ValueError(f"process {process.id} reads {source!r}, which is no process before it")
        known.add(process.id)


def _caption(process: ScriptProcess, keys: dict[int, str]) -> Raw:
    """The comment above a process; empty inside the chain of one file."""
    numbers = [int(match[1]) for match in map(STAGED_INPUT.match, process.argv) if match]
    files = [f"File {number}: {comment(keys[number])}." for number in numbers if number in keys]
    joined = [f"Together: {', '.join(process.sources)}."] if len(process.sources) > 1 else []
    result = ["The result."] if process.output is not None else []
    return Raw(" ".join(["#", *files, *joined, *result]) if files or joined or result else "")


def _template(name: str) -> Template:
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    """Kept with what it compiled: rendering takes a tenth of reading a template."""
    environment = Environment(
        loader=PackageLoader("divbase_jobscripts"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - the output is bash, not HTML; finalize quotes every value for it
        finalize=quote,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(words=words, comment=comment, sbatch=sbatch, pipe_options=pipe_options, raw=_site_line)
    return environment


def _site_line(line: str) -> Raw:
    """A line that the site's administrator wrote: bash, to be taken as it is."""
    return Raw(_carriable(line))
