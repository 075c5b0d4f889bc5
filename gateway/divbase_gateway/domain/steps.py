"""The steps of a query that run on each file: `bcftools view`, as parsed by the grammar, and the rules between them.

It knows the options of `view` and what follows from their order, not files, samples or how steps become processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from divbase_gateway.domain.options import reads_sites_only
from divbase_gateway.domain.regions import Region, parse_regions
from divbase_gateway.domain.step_grammar import Command, ReadStep, StepOption, read_steps
from divbase_gateway.domain.view_options import EXCLUSIVE, VIEW_OPTIONS

VIEW = Command("view", VIEW_OPTIONS, EXCLUSIVE)

_ONCE = "These steps run on each file and are view; {} runs once on all files together and belongs into --after."
_ELSEWHERE: Mapping[str, str] = {
    "bcftools": "Leave the word bcftools out: a step begins with view.",
    **{name: _ONCE.format(name) for name in ("norm", "annotate", "query", "stats", "+fill-tags")},
}


@dataclass(frozen=True)
class Step:
    """One `bcftools view`.

    Attributes:
        number: from 1.
        options: in the order given, without the bare `-s`.
        cuts_samples: the bare `-s` was given: the samples are cut down in this step.
    """

    number: int
    options: tuple[StepOption, ...]
    cuts_samples: bool

    @property
    def argv(self) -> tuple[str, ...]:
        """`view` and its options: long names, values apart."""
        return ("view", *(word for option in self.options for word in option.argv))

    @property
    def sees_uncut_samples(self) -> bool:
        """Whether a cut in this very step could change what it selects: then the cut needs a process before it."""
        return any(
            given.option.before_cut and not (given.option.check and reads_sites_only(given.value or ""))
            if given.option.long in ("include", "exclude")
            else given.option.before_cut
            for given in self.options
        )

    def value(self, long: str) -> str | None:
        """The value of this option; None where it was not given (or has none)."""
        return next((given.value for given in self.options if given.option.long == long), None)

    def has(self, long: str) -> bool:
        return any(given.option.long == long for given in self.options)


@dataclass(frozen=True)
class Steps:
    """The steps of a query, at least one. `cut_at`: index of the step with the bare `-s`; None without one."""

    steps: tuple[Step, ...]

    @property
    def cut_at(self) -> int | None:
        return next((index for index, step in enumerate(self.steps) if step.cuts_samples), None)

    @property
    def regions(self) -> tuple[Region, ...]:
        """Of the first step, as asked; empty for everything."""
        value = self.steps[0].value("regions")
        return parse_regions(value) if value else ()

    @property
    def target_contigs(self) -> tuple[str, ...]:
        """Every contig that a `--targets` names."""
        return contigs_of(step.value("targets") for step in self.steps)

    @property
    def drops_genotypes(self) -> bool:
        return any(step.has("drop-genotypes") for step in self.steps)


def contigs_of(targets: Iterable[str | None]) -> tuple[str, ...]:
    """Every contig that these values of `--targets` name."""
    values = [value.removeprefix("^") for value in targets if value]
    return tuple(dict.fromkeys(region.contig for value in values for region in parse_regions(value)))


def parse_steps(command: str) -> Steps:
    """Read steps such as `view -r 21:1-100; view -s -i "QUAL>30"`.

    Raises:
        InvalidStep: with the step, the place in the command and what is allowed.
    """
    steps = read_steps(command, "command", (VIEW,), _ELSEWHERE)
    for step in steps:
        check_overlaps(step)
        _check_beside_cut(step)
    _check_order(steps)
    return Steps(tuple(_view(step) for step in steps))


def _view(step: ReadStep) -> Step:
    rest = tuple(given for given in step.options if given.option.long != "samples")
    return Step(step.number, rest, step.has("samples"))


# --- rules between options and steps ---------------------------------------------------------------------------------


def check_overlaps(step: ReadStep) -> None:
    """An option that says how regions are meant stands beside regions only."""
    for name, needed in (("regions-overlap", "regions"), ("targets-overlap", "targets")):
        given = step.given(name)
        if given and not step.has(needed):
            raise step.refuse(f"--{name} says nothing without --{needed}", given.position)


def _check_beside_cut(step: ReadStep) -> None:
    genotype = step.given("genotype")
    if step.has("samples") and genotype:
        raise step.refuse(
            "-g beside -s gives wrong answers in bcftools (it looks at samples that are gone)",
            genotype.position,
            "Put -g into a step of its own after it.",
        )
    for name in ("private", "exclude-private"):
        given = step.given(name)
        if given and not step.has("samples"):
            raise step.refuse(
                f"--{name} compares the chosen samples with the rest of their file, and so needs a bare -s beside it",
                given.position,
                f"Write: view -s --{name}",
            )


def _check_order(steps: Sequence[ReadStep]) -> None:
    """Where regions may stand, one mark, genotypes gone."""
    marked = 0
    dropped = 0
    for step in steps:
        regions = step.given("regions")
        if step.number > 1 and regions:
            raise step.refuse(
                "-r is for the first step, which reads files and can seek; later steps read a stream",
                regions.position,
                "Use -t here, or move -r to the first step.",
            )
        if step.has("samples") and marked:
            raise step.refuse(f"-s already marks step {marked}", hint="Mark one step.")
        if step.has("samples") and dropped:
            raise step.refuse(f"Step {dropped} dropped all genotypes; no samples are left", hint="Cut before -G.")
        marked = step.number if step.has("samples") else marked
        dropped = dropped or (step.number if step.has("drop-genotypes") else 0)
