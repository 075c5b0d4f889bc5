"""What a job asks of the cluster and on whose account: the words that SLURM knows, and the bounds that a project has.
Pure values and rules; standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime


@dataclass(frozen=True)
class Resources:
    """What one attempt asks for."""

    cores: int
    memory_mb: int
    minutes: int

    @property
    def core_hours(self) -> float:
        """What it uses at most: SLURM ends it at its time limit."""
        return self.cores * self.minutes / 60


@dataclass(frozen=True)
class Labels:
    """SLURM's account, partition, QOS and wckey of a job; None leaves it to the cluster's default."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    wckey: str | None = None

    def over(self, site: Labels) -> Labels:
        """These, and the site's where there is none."""
        return Labels(
            account=self.account or site.account,
            partition=self.partition or site.partition,
            qos=self.qos or site.qos,
            wckey=self.wckey or site.wckey,
        )


@dataclass(frozen=True)
class Excess:
    """One thing that a job asks too much of; `name` is that of the field in `Resources` and `Ceilings`."""

    name: str
    asked: int
    ceiling: int

    def __str__(self) -> str:
        kind = "MB of memory" if self.name == "memory_mb" else "minutes"
        return f"{self.asked} {kind}, where {self.ceiling} are the most"


@dataclass(frozen=True)
class Ceilings:
    """The most that one job may ask for; None: as much as it likes."""

    cores: int | None = None
    memory_mb: int | None = None
    minutes: int | None = None

    def over(self, site: Ceilings) -> Ceilings:
        """These, and the site's where there is none: a project may be allowed more than others, or less."""
        return Ceilings(
            cores=site.cores if self.cores is None else self.cores,
            memory_mb=site.memory_mb if self.memory_mb is None else self.memory_mb,
            minutes=site.minutes if self.minutes is None else self.minutes,
        )

    def cap(self, asked: Resources) -> Resources:
        """The same with no more cores than allowed: they make a job quicker, and fewer of them change no result."""
        return asked if self.cores is None else replace(asked, cores=min(asked.cores, self.cores))

    def excesses(self, asked: Resources) -> Iterator[Excess]:
        """What cannot be capped, because the job would die of less."""
        if self.memory_mb is not None and asked.memory_mb > self.memory_mb:
            yield Excess("memory_mb", asked.memory_mb, self.memory_mb)
        if self.minutes is not None and asked.minutes > self.minutes:
            yield Excess("minutes", asked.minutes, self.minutes)


@dataclass(frozen=True)
class Limits:
    """What the jobs of a project, or of a user, may use together; None: no limit.

    Attributes:
        open_jobs: query jobs that have not ended.
        core_hours: of a month.
    """

    open_jobs: int | None = None
    core_hours: float | None = None

    def over(self, site: Limits) -> Limits:
        """These, and the site's where there is none."""
        return Limits(
            open_jobs=site.open_jobs if self.open_jobs is None else self.open_jobs,
            core_hours=site.core_hours if self.core_hours is None else self.core_hours,
        )

    @property
    def is_none(self) -> bool:
        return self.open_jobs is None and self.core_hours is None


@dataclass(frozen=True)
class CoreHours:
    """Core-hours of a month: `used` by attempts that ended in it, `committed` to open jobs at their worst."""

    used: float
    committed: float
    limit: float | None

    @property
    def left(self) -> float | None:
        """What a new job may use at most; None: there is no limit."""
        return None if self.limit is None else max(0.0, self.limit - self.used - self.committed)

    def allow(self, more: float) -> bool:
        """Whether a job that uses `more` at most fits in what is left."""
        return self.left is None or more <= self.left + 1e-9  # sums of decimal fractions are not exact


@dataclass(frozen=True)
class Month:
    """A calendar month in UTC."""

    year: int
    month: int

    @classmethod
    def of(cls, moment: datetime) -> Month:
        """The month that an aware time lies in."""
        moment = moment.astimezone(UTC)
        return cls(moment.year, moment.month)

    @classmethod
    def parse(cls, text: str) -> Month:
        """The month of `YYYY-MM`; ValueError if it is none."""
        return cls.of(datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC))

    @property
    def start(self) -> datetime:
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The start of the month after it."""
        return datetime(self.year + self.month // 12, self.month % 12 + 1, 1, tzinfo=UTC)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.month:02}"
