"""What a researcher asks (QueryRequest) and what will be done about it (Plan). Pure values; `planning.py` makes one
from the other, `steps.py` reads the bcftools steps, `samples.py` the metadata filter."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from divbase_gateway.domain.files import FileFormat, IndexRef
from divbase_gateway.domain.spans import Part


class OutputFormat(StrEnum):
    VCF_GZ = "vcf.gz"
    BCF = "bcf"
    TSV = "tsv"  # a table, as `query -f` prints it
    STATS = "stats"  # the tables of `bcftools stats`

    @property
    def is_text(self) -> bool:
        """Neither compressed nor indexed."""
        return self in (OutputFormat.TSV, OutputFormat.STATS)

    @property
    def suffix(self) -> str:
        """Of the result's name, without the dot before it."""
        return "stats.txt" if self is OutputFormat.STATS else self.value


@dataclass(frozen=True)
class Selection:
    """Which samples: exactly one of the three is set."""

    where: str | None = None
    samples: tuple[str, ...] = ()
    all_samples: bool = False


@dataclass(frozen=True)
class QueryRequest:
    """A query as it was asked.

    Attributes:
        command: bcftools steps for each file as the user typed them, `;` between them.
        after: steps for all files together, once they are one stream; empty for none.
        files: globs over the project's keys; empty for every usable variant file.
        output: None for what the steps give: text if the last one prints it, else `vcf.gz`.
        name: the result's file name without its suffix.
        at: the snapshot whose file versions are asked, None for those of now.
        level: compression level of `vcf.gz` and `bcf`, 0 to 9; None for the usual one.
    """

    selection: Selection
    command: str = "view"
    after: str = ""
    files: tuple[str, ...] = ()
    output: OutputFormat | None = None
    level: int | None = None
    name: str = "result"
    at: str | None = None


class CombineKind(StrEnum):
    SINGLE = "single"  # one file
    CONCAT = "concat"  # the same samples in every file
    MERGE = "merge"  # no sample in two files
    MIXED = "mixed"  # groups of the same samples: concat in each, merge between them


@dataclass(frozen=True)
class InputCopy:
    """The BCF copy of an input, which the job reads in its place. The same records come of either.

    Attributes:
        bytes_needed, part, begins: of the copy, as those of the input.
    """

    key: str
    version_id: str
    size: int
    etag: str
    sha256: str | None
    index: IndexRef
    bytes_needed: int
    part: Part | None = None
    begins: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlannedInput:
    """One file version that the question is about, and how the job reads it.

    Attributes:
        number: 1-based, in key order; the node stages it as `in/<number>.vcf.gz` (or `.bcf`) with its index beside.
        samples: what the node writes to `samples/<number>.txt`: the selected samples in the order of the result (that
            of the header of the group's first file); None when the file is neither cut down nor reordered.
        group: 1-based number of the concat group that the file belongs to.
        bytes_needed: bytes to read of it, index included.
        part: what to read of the file; None for the whole of it. The same records come of either.
        begins: virtual offsets of the first record on each contig, where the node has to see that none has POS 0:
            shards read by index, and an index finds no such record.
        copy: what is read in place of the file. The rest is about the file all the same: a plan is about files.
    """

    number: int
    key: str
    version_id: str
    size: int
    etag: str
    sha256: str | None
    format: str
    index: IndexRef
    samples: tuple[str, ...] | None
    group: int
    bytes_needed: int
    part: Part | None = None
    begins: tuple[int, ...] = ()
    copy: InputCopy | None = None

    @property
    def source(self) -> PlannedInput | InputCopy:
        """What is read."""
        return self.copy or self

    @property
    def read_format(self) -> str:
        """Of what is read; so it is called on the node."""
        return self.format if self.copy is None else FileFormat.BCF.value


@dataclass(frozen=True)
class Process:
    """One bcftools process of the pipeline.

    Attributes:
        id: unique in the plan, `[a-z0-9.]+`.
        argv: the arguments after `bcftools`, without inputs that come from other processes.
        sources: ids of the processes whose output it reads. One source arrives as `-` (standard input), several as
            /dev/fd paths appended to argv in this order.
        materialise: its output is written to an indexed BCF before its reader starts, because the reader seeks or opens
            it twice (`concat` does). Its argv then has `-Ob1`, which can be indexed, in place of `-Ou`.
            Where a source is materialised, the reader gets the file's path instead of a /dev/fd path.
        output: path of the result relative to the job's scratch folder (the last process only). The process writes it
            itself if it is among its argv; if not, the result is what the process prints.
    """

    id: str
    argv: tuple[str, ...]
    sources: tuple[str, ...] = ()
    materialise: bool = False
    output: str | None = None


@dataclass(frozen=True)
class Spread:
    """Jobs of their own for the shards of a query, which all ask the scheduler for the same.

    Attributes:
        expected_s: seconds that the longest of them is expected to run for.
    """

    tasks: int
    cores: int
    memory_mb: int
    minutes: int
    scratch_mb: int
    expected_s: int


@dataclass(frozen=True)
class Plan:
    """Everything that the job will do; the only thing the renderer sees.

    Of a query that is spread over several jobs it is the one that joins what the others made of their shards, in all
    that concerns `processes` and resources; its `inputs` are still the files of the question.

    Attributes:
        samples: of the result, in its column order.
        dropped_samples: selected, but in no file that has the region.
        regions: of the first step, as asked; empty for everything.
        bytes_total, bytes_needed: of the inputs with their indexes; what is stored, and what will be read.
        memory_mb, cores, minutes, scratch_mb: what the job asks of the scheduler.
        warnings: sentences for the user.
        digest: sha256 hex over inputs, processes and output: equal plans have equal digests.
        shards: into which the work is cut, to be done side by side; 1: it is not.
        model_s, expected_s: seconds that the job takes by the cost model alone, and corrected by what earlier jobs
            took; 0: not known. Of a query that is spread, `model_s` is that of joining, `expected_s` that of all.
        spread: the jobs that the work is spread over, None where it is done by one.
        task_plans: of these jobs, in the order of the result. Each is stored with its own job, and not here.
    """

    inputs: tuple[PlannedInput, ...]
    processes: tuple[Process, ...]
    combine: CombineKind
    samples: tuple[str, ...]
    dropped_samples: tuple[str, ...]
    regions: tuple[str, ...]
    output: OutputFormat
    output_name: str
    bytes_total: int
    bytes_needed: int
    memory_mb: int
    cores: int
    minutes: int
    scratch_mb: int
    warnings: tuple[str, ...] = ()
    digest: str = field(default="")
    shards: int = 1
    model_s: int = 0
    expected_s: int = 0
    spread: Spread | None = None
    task_plans: tuple[Plan, ...] = ()


@dataclass(frozen=True)
class IndexPlan:
    """What an index job will do: read one file version, write its index as `output_key`."""

    key: str
    version_id: str
    size: int
    etag: str
    sha256: str | None
    format: str
    output_key: str
    memory_mb: int
    cores: int
    minutes: int
    scratch_mb: int
