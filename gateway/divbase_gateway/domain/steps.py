"""Reads bcftools steps as a person types them into argument lists; anything outside the allow-list is refused.

It knows the grammar and the rules between options, not files, samples or how steps become processes. The grammar is
narrower than bcftools's own (getopt): no abbreviated long options, no bundled short ones, no positional arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from divbase_gateway.domain.errors import InvalidStep
from divbase_gateway.domain.regions import Region, parse_regions
from divbase_gateway.domain.samples import close_matches
from divbase_gateway.domain.view_options import EXCLUSIVE, VIEW_OPTIONS, Option, reads_sites_only
from divbase_gateway.domain.words import UnreadableCommand, Word, split_steps

MAX_COMMAND = 10_000
COMMANDS = ("view",)

_BY_LONG = {option.long: option for option in VIEW_OPTIONS}
_BY_SHORT = {option.short: option for option in VIEW_OPTIONS if option.short}
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"


@dataclass(frozen=True)
class StepOption:
    """An option as it was given: its row of the allow-list, its checked value, its place in the command."""

    option: Option
    value: str | None
    position: int

    @property
    def argv(self) -> tuple[str, ...]:
        name = f"--{self.option.long}"
        return (name,) if self.value is None else (name, self.value)


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
        values = [value.removeprefix("^") for step in self.steps if (value := step.value("targets"))]
        return tuple(dict.fromkeys(region.contig for value in values for region in parse_regions(value)))

    @property
    def drops_genotypes(self) -> bool:
        return any(step.has("drop-genotypes") for step in self.steps)


def parse_steps(command: str) -> Steps:
    """Read steps such as `view -r 21:1-100; view -s -i "QUAL>30"`.

    Raises:
        InvalidStep: with the step, the place in the command and what is allowed.
    """
    if len(command) > MAX_COMMAND:
        raise InvalidStep(f"The command is longer than {MAX_COMMAND} characters.", details=_place(1, MAX_COMMAND))
    try:
        words = split_steps(command)
    except UnreadableCommand as exc:
        raise InvalidStep(
            f"{exc}, in step {exc.step} at character {exc.position + 1}.",
            hint="Quote a value once, with ' or \".",
            details=_place(exc.step, exc.position),
        ) from exc
    steps = tuple(_parse_step(number, step, command) for number, step in enumerate(words, start=1))
    _check_order(steps)
    return Steps(steps)


def _place(step: int, position: int) -> dict[str, object]:
    allowed = [option.spelling for option in VIEW_OPTIONS if option.refused is None]
    return {"step": step, "position": position, "allowed": allowed}


def _refuse(message: str, step: int, position: int, hint: str | None = None) -> InvalidStep:
    """An error whose message ends with the place, and whose hint lists what is allowed where none is given."""
    place = _place(step, position)
    listing = "Allowed in view: " + "; ".join(o.spelling for o in VIEW_OPTIONS if o.refused is None) + "."
    return InvalidStep(
        f"{message} (step {step}, character {position + 1} of the command).", hint=hint or listing, details=place
    )


def _parse_step(number: int, words: Sequence[Word], command: str) -> Step:
    if not words:
        raise _refuse("A step is empty", number, len(command), 'Write "view" for everything; ";" only between steps.')
    first = words[0]
    if first.text not in COMMANDS:
        hint = "Leave the word bcftools out: a step begins with view." if first.text == "bcftools" else None
        hint = hint or "A step begins with view; other commands are not available yet."
        raise _refuse(f"{first.text!r} is no allowed command", number, first.position, hint)
    given = list(_read_options(number, words[1:]))
    _check_options(number, given)
    cuts = any(option.option.long == "samples" for option in given)
    return Step(number, tuple(option for option in given if option.option.long != "samples"), cuts)


def _read_options(number: int, words: Sequence[Word]) -> Iterator[StepOption]:
    index = 0
    while index < len(words):
        word = words[index]
        option, attached = _find_option(number, word)
        index += 1
        if option.refused is not None:
            raise _refuse(f"{option.spelling} is not allowed: {option.refused}", number, word.position)
        following = words[index] if index < len(words) else None
        if not option.takes_value:
            _check_no_value(number, word, option, attached, following)
            yield StepOption(option, None, word.position)
            continue
        if attached is None:
            if following is None or _looks_like_option(following):
                raise _refuse(f"{option.spelling} needs a value", number, word.position, _value_hint(option))
            attached = following.text
            index += 1
        yield StepOption(option, _checked(number, word, option, attached), word.position)


def _find_option(number: int, word: Word) -> tuple[Option, str | None]:
    """The option that a word names, and the value that is attached to it."""
    text = word.text
    if text.startswith("--") and len(text) > 2:
        name, equals, value = text[2:].partition("=")
        if name not in _BY_LONG:
            raise _unknown_long(number, word, name)
        return _BY_LONG[name], value if equals else None
    if not text.startswith("-") or text in ("-", "--"):
        raise _positional(number, word)
    option = _BY_SHORT.get(text[1])
    if option is None or text[1:] in _BY_LONG:
        raise _unknown_long(number, word, text[1:])
    attached = text[2:] or None
    if attached and not option.takes_value and option.long != "samples":
        raise _refuse(f"{text!r} bundles several options", number, word.position, "Write each option by itself.")
    return option, attached


def _unknown_long(number: int, word: Word, name: str) -> InvalidStep:
    allowed = [option.long for option in VIEW_OPTIONS if option.refused is None]
    meant = [f"--{long}" for long in allowed if name and long.startswith(name)]
    meant = meant or [f"--{long}" for long in close_matches(name, allowed)]
    question = f"; did you mean {' or '.join(meant[:3])}?" if meant else ""
    return _refuse(f"view has no option {word.text!r}, or none that is allowed here{question}", number, word.position)


def _positional(number: int, word: Word) -> InvalidStep:
    message = f"{word.text!r} stands where an option is expected"
    hint = "Files are chosen with --files of the query; a step takes options only."
    if word.text[:1] and word.text[0] in _DASHES:
        hint = "It begins with a typographic dash; type the hyphen '-'."
    elif word.text[:1] in ("|", "&"):
        hint = "Steps are separated by ';'."
    return _refuse(message, number, word.position, hint)


def _looks_like_option(word: Word) -> bool:
    if word.quoted:
        return False
    return word.text.startswith("--") or (word.text.startswith("-") and word.text[1:2] in _BY_SHORT)


def _check_no_value(number: int, word: Word, option: Option, attached: str | None, following: Word | None) -> None:
    is_value = attached is not None or (following is not None and not _looks_like_option(following))
    if option.long == "samples" and is_value:
        raise _refuse(
            "-s stands alone here: it marks the step in which the samples are cut down",
            number,
            word.position,
            "Choose the samples with --samples, --samples-file or --where of the query.",
        )
    if attached is not None:
        raise _refuse(f"{option.spelling} takes no value", number, word.position)


def _value_hint(option: Option) -> str:
    return f"Write --{option.long}=VALUE if the value begins with '-'."


def _checked(number: int, word: Word, option: Option, value: str) -> str:
    assert option.check is not None  # noqa: S101 - every allowed row that takes a value has a check; a test walks them
    try:
        return option.check(value)
    except ValueError as exc:
        raise _refuse(f"In {option.spelling}, {exc}", number, word.position, "Correct the value.") from exc


# --- rules between options -------------------------------------------------------------------------------------------


def _check_options(number: int, given: Sequence[StepOption]) -> None:
    seen: dict[str, StepOption] = {}
    for option in given:
        if option.option.long in seen:
            raise _refuse(f"{option.option.spelling} is given twice", number, option.position, "Give it once.")
        seen[option.option.long] = option
    for one, other in EXCLUSIVE:
        if one in seen and other in seen:
            raise _refuse(
                f"--{one} and --{other} exclude each other",
                number,
                seen[other].position,
                "Use two steps for two filters.",
            )
    for name, needed in (("regions-overlap", "regions"), ("targets-overlap", "targets")):
        if name in seen and needed not in seen:
            raise _refuse(f"--{name} says nothing without --{needed}", number, seen[name].position)
    _check_beside_cut(number, seen)


def _check_beside_cut(number: int, seen: dict[str, StepOption]) -> None:
    if "samples" in seen and "genotype" in seen:
        raise _refuse(
            "-g beside -s gives wrong answers in bcftools (it looks at samples that are gone)",
            number,
            seen["genotype"].position,
            "Put -g into a step of its own after it.",
        )
    for name in ("private", "exclude-private"):
        if name in seen and "samples" not in seen:
            raise _refuse(
                f"--{name} compares the chosen samples with the rest of their file, and so needs a bare -s beside it",
                number,
                seen[name].position,
                f"Write: view -s --{name}",
            )


def _check_order(steps: Sequence[Step]) -> None:
    """Rules between steps: where regions may stand, one mark, genotypes gone."""
    marked = 0
    dropped = 0
    for step in steps:
        for given in step.options:
            if step.number > 1 and given.option.long == "regions":
                raise _refuse(
                    "-r is for the first step, which reads files and can seek; later steps read a stream",
                    step.number,
                    given.position,
                    "Use -t here, or move -r to the first step.",
                )
        if step.cuts_samples and marked:
            raise _refuse(f"-s already marks step {marked}", step.number, 0, "Mark one step.")
        if step.cuts_samples and dropped:
            raise _refuse(
                f"Step {dropped} dropped all genotypes; no samples are left", step.number, 0, "Cut before -G."
            )
        marked = step.number if step.cuts_samples else marked
        dropped = dropped or (step.number if step.has("drop-genotypes") else 0)
