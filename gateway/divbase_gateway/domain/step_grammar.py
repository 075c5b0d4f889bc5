"""Reads bcftools steps as a person types them, by tables of what is allowed; anything outside of them is refused.

It knows the grammar, which is narrower than bcftools's own (getopt): no abbreviated long options, no bundled short
ones, no positional arguments. It knows no command: those are given to it as tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from divbase_gateway.domain.errors import InvalidStep
from divbase_gateway.domain.options import Option
from divbase_gateway.domain.samples import close_matches
from divbase_gateway.domain.words import UnreadableCommand, Word, split_steps

MAX_COMMAND = 10_000

Part = Literal["command", "after"]
"""The field of the query that holds the steps."""

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"
_NAMES: Mapping[Part, str] = {"command": "the command", "after": "--after"}


@dataclass(frozen=True)
class Command:
    """A bcftools command and its allow-list.

    Attributes:
        options: what may follow its name; of a plugin, what may follow `--`.
        exclusive: pairs of options of which bcftools takes one, some by ignoring the other silently.
        needs: long names of options of which at least one has to be given.
        general: of a plugin, the options that bcftools would read before `--`; None for what is no plugin.
    """

    name: str
    options: tuple[Option, ...]
    exclusive: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()
    general: tuple[Option, ...] | None = None

    @property
    def allowed(self) -> list[Option]:
        return [option for option in self.options if option.refused is None]


@dataclass(frozen=True)
class StepOption:
    """An option as it was given: its row of the allow-list, its checked value, its place in the text."""

    option: Option
    value: str | None
    position: int

    @property
    def argv(self) -> tuple[str, ...]:
        name = f"--{self.option.long}"
        return (name,) if self.value is None else (name, self.value)


@dataclass(frozen=True)
class Place:
    """Where in the query something is read: what an error says of itself. `command`: None before it is known."""

    part: Part
    step: int
    command: Command | None = None

    def refuse(self, message: str, position: int, hint: str | None = None) -> InvalidStep:
        """An error whose message ends with the place, and whose hint lists what is allowed where none is given."""
        where = f"(step {self.step}, character {position + 1} of {_NAMES[self.part]})"
        return InvalidStep(f"{message} {where}.", hint=hint or self._listing(), details=self.details(position))

    def details(self, position: int) -> dict[str, object]:
        allowed = [option.spelling for option in self.command.allowed] if self.command else []
        return {"part": self.part, "step": self.step, "position": position, "allowed": allowed}

    def _listing(self) -> str | None:
        if self.command is None:
            return None
        return f"Allowed in {self.command.name}: {'; '.join(option.spelling for option in self.command.allowed)}."


@dataclass(frozen=True)
class ReadStep:
    """One step: its command and its options in the order given. `position`: of its first word in the text."""

    place: Place
    command: Command
    position: int
    options: tuple[StepOption, ...]

    @property
    def number(self) -> int:
        """From 1."""
        return self.place.step

    def given(self, long: str) -> StepOption | None:
        return next((each for each in self.options if each.option.long == long), None)

    def value(self, long: str) -> str | None:
        """The value of this option; None where it was not given (or has none)."""
        found = self.given(long)
        return found.value if found else None

    def has(self, long: str) -> bool:
        return self.given(long) is not None

    def refuse(self, message: str, position: int | None = None, hint: str | None = None) -> InvalidStep:
        """An error about this step, at its first word unless an option is to blame."""
        return self.place.refuse(message, self.position if position is None else position, hint)


def read_steps(text: str, part: Part, commands: Sequence[Command], elsewhere: Mapping[str, str]) -> list[ReadStep]:
    """The steps of a text, each by the table of its command.

    Args:
        elsewhere: words that people put first -> what to do instead.

    Raises:
        InvalidStep: with the step, the place in the text and what is allowed.
    """
    if len(text) > MAX_COMMAND:
        words = f"{_NAMES[part].capitalize()} is longer than {MAX_COMMAND} characters."
        raise InvalidStep(words, details=Place(part, 1, commands[0]).details(MAX_COMMAND))
    try:
        steps = split_steps(text)
    except UnreadableCommand as exc:
        raise InvalidStep(
            f"{exc}, in step {exc.step} at character {exc.position + 1}.",
            hint="Quote a value once, with ' or \".",
            details=Place(part, exc.step, commands[0]).details(exc.position),
        ) from exc
    return [
        _read_step(Place(part, number), words, commands, elsewhere, len(text))
        for number, words in enumerate(steps, start=1)
    ]


def _read_step(
    place: Place, words: Sequence[Word], commands: Sequence[Command], elsewhere: Mapping[str, str], end: int
) -> ReadStep:
    by_name = {command.name: command for command in commands}
    names = ", ".join(by_name)
    if not words:
        raise Place(place.part, place.step, commands[0]).refuse(
            "A step is empty", end, f'A step begins with {names}; ";" stands only between steps.'
        )
    first = words[0]
    if first.text not in by_name:
        meant = close_matches(first.text, by_name)
        question = f"; did you mean {' or '.join(meant)}?" if meant else ""
        hint = elsewhere.get(first.text) or f"A step begins with {names}."
        raise Place(place.part, place.step, commands[0]).refuse(
            f"{first.text!r} is no allowed command{question}", first.position, hint
        )
    command = by_name[first.text]
    reader = _Reader(Place(place.part, place.step, command), command)
    following = words[1:] if command.general is None else reader.after_dashes(first, words[1:])
    given = tuple(reader.read(following))
    reader.check_together(given, first.position)
    return ReadStep(reader.place, command, first.position, given)


class _Reader:
    """Reads the options of one step."""

    def __init__(self, place: Place, command: Command):
        self.place = place
        self.command = command
        self.by_long = {option.long: option for option in command.options}
        self.by_short = {option.short: option for option in command.options if option.short}

    def read(self, words: Sequence[Word]) -> Iterator[StepOption]:
        index = 0
        while index < len(words):
            word = words[index]
            option, attached = self._find(word)
            index += 1
            if option.refused is not None:
                raise self.place.refuse(f"{option.spelling} is not allowed: {option.refused}", word.position)
            following = words[index] if index < len(words) else None
            if not option.takes_value:
                self._check_no_value(word, option, attached, following)
                yield StepOption(option, None, word.position)
                continue
            if attached is None:
                if following is None or (self._looks_like_option(following) and not option.dashed):
                    hint = f"Write --{option.long}=VALUE if the value begins with '-'."
                    raise self.place.refuse(f"{option.spelling} needs a value", word.position, hint)
                attached = following.text
                index += 1
            yield StepOption(option, self._checked(word, option, attached), word.position)

    def after_dashes(self, name: Word, words: Sequence[Word]) -> Sequence[Word]:
        """What follows the `--` of a plugin; before it stand options of bcftools's own, and none of them is allowed."""
        if words and words[0].text == "--":
            return words[1:]
        at = words[0] if words else name
        message = f"{self.command.name} is a plugin: its options stand after a word --"
        for option in self.command.general or ():
            if at.text.partition("=")[0] == f"--{option.long}" or (option.short and at.text[:2] == f"-{option.short}"):
                message += f", and {option.spelling} before it is not allowed: {option.refused}"
        example = self.command.allowed[0].spelling.partition(",")[0]
        raise self.place.refuse(message, at.position, f"Write: {self.command.name} -- {example} VALUE")

    def check_together(self, given: Sequence[StepOption], at: int) -> None:
        """No option twice, none beside one that excludes it, and those that the command needs."""
        seen: dict[str, StepOption] = {}
        for each in given:
            if each.option.long in seen:
                raise self.place.refuse(f"{each.option.spelling} is given twice", each.position, "Give it once.")
            seen[each.option.long] = each
        for one, other in self.command.exclusive:
            if one in seen and other in seen:
                raise self.place.refuse(
                    f"--{one} and --{other} exclude each other", seen[other].position, "Use two steps for two filters."
                )
        if self.command.needs and seen.keys().isdisjoint(self.command.needs):
            needed = " or ".join(self.by_long[long].spelling for long in self.command.needs)
            raise self.place.refuse(f"{self.command.name} needs {needed}", at)

    def _find(self, word: Word) -> tuple[Option, str | None]:
        """The option that a word names, and the value that is attached to it."""
        text = word.text
        if text.startswith("--") and len(text) > 2:
            name, equals, value = text[2:].partition("=")
            if name not in self.by_long:
                raise self._unknown(word, name)
            return self.by_long[name], value if equals else None
        if not text.startswith("-") or text in ("-", "--"):
            raise self._positional(word)
        option = self.by_short.get(text[1])
        if option is None or text[1:] in self.by_long:
            raise self._unknown(word, text[1:])
        attached = text[2:] or None
        if attached and not option.takes_value and option.long != "samples":
            raise self.place.refuse(f"{text!r} bundles several options", word.position, "Write each option by itself.")
        return option, attached

    def _unknown(self, word: Word, name: str) -> InvalidStep:
        allowed = [option.long for option in self.command.allowed]
        meant = [f"--{long}" for long in allowed if name and long.startswith(name)]
        meant = meant or [f"--{long}" for long in close_matches(name, allowed)]
        question = f"; did you mean {' or '.join(meant[:3])}?" if meant else ""
        return self.place.refuse(
            f"{self.command.name} has no option {word.text!r}, or none that is allowed here{question}", word.position
        )

    def _positional(self, word: Word) -> InvalidStep:
        message = f"{word.text!r} stands where an option is expected"
        hint = "Files are chosen with --files of the query; a step takes options only."
        if word.text[:1] and word.text[0] in _DASHES:
            hint = "It begins with a typographic dash; type the hyphen '-'."
        elif word.text[:1] in ("|", "&"):
            hint = "Steps are separated by ';'."
        return self.place.refuse(message, word.position, hint)

    def _looks_like_option(self, word: Word) -> bool:
        if word.quoted:
            return False
        return word.text.startswith("--") or (word.text.startswith("-") and word.text[1:2] in self.by_short)

    def _check_no_value(self, word: Word, option: Option, attached: str | None, following: Word | None) -> None:
        is_value = attached is not None or (following is not None and not self._looks_like_option(following))
        if option.long == "samples" and is_value:
            raise self.place.refuse(
                "-s stands alone here: it marks the step in which the samples are cut down",
                word.position,
                "Choose the samples with --samples, --samples-file or --where of the query.",
            )
        if attached is not None:
            raise self.place.refuse(f"{option.spelling} takes no value", word.position)

    def _checked(self, word: Word, option: Option, value: str) -> str:
        assert option.check is not None  # noqa: S101 - every allowed row that takes a value has a check; a test walks them
        try:
            return option.check(value)
        except ValueError as exc:
            raise self.place.refuse(f"In {option.spelling}, {exc}", word.position, "Correct the value.") from exc
