"""Cuts the text of a command into steps and words by the quoting rules of a shell, and keeps every word's place.

It knows no command and no option; nothing here, or after it, ever is a shell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line separators and halves of characters: in no value."""


@dataclass(frozen=True)
class Word:
    """A word after its quotes are gone. `position`: of its first character in the command, from 0."""

    text: str
    position: int
    quoted: bool = False


class UnreadableCommand(ValueError):
    """The quoting is wrong. `step` counts from 1, `position` from 0."""

    def __init__(self, message: str, step: int, position: int):
        super().__init__(message)
        self.step = step
        self.position = position


def split_steps(command: str) -> list[list[Word]]:
    """The words of each step; steps are separated by `;` outside quotes.

    As in a shell: white space separates, '…' takes everything as it is, "…" too but for a backslash before `"`, `\\`,
    `$` and a back-tick, a backslash elsewhere takes the next character as it is. Nothing is ever expanded.

    Raises:
        UnreadableCommand: a quote that is not closed, a backslash at the end, a control character.
    """
    steps: list[list[Word]] = [[]]
    position = 0
    while position < len(command):
        character = command[position]
        if character == ";":
            steps.append([])
            position += 1
        elif character in " \t\n\r":
            position += 1
        else:
            word, position = _read_word(command, position, len(steps))
            steps[-1].append(word)
    return steps


def _read_word(command: str, start: int, step: int) -> tuple[Word, int]:
    text: list[str] = []
    position = start
    while position < len(command) and command[position] not in " \t\n\r;":
        if command[position] in "'\"":
            part, position = _read_quoted(command, position, step)
            text.append(part)
        elif command[position] == "\\":
            if position + 1 == len(command):
                raise UnreadableCommand("The command ends with a backslash", step, position)
            text.append(command[position + 1])
            position += 2
        else:
            text.append(command[position])
            position += 1
    word = Word("".join(text), start, quoted=command[start] in "'\"\\")
    if UNPRINTABLE.search(word.text):
        raise UnreadableCommand("A value holds a control character (a line break, for example)", step, start)
    return word, position


def _read_quoted(command: str, start: int, step: int) -> tuple[str, int]:
    quote = command[start]
    text: list[str] = []
    position = start + 1
    while position < len(command) and command[position] != quote:
        if quote == '"' and command[position] == "\\" and command[position + 1 : position + 2] in ('"', "\\", "$", "`"):
            position += 1
        text.append(command[position])
        position += 1
    if position == len(command):
        raise UnreadableCommand(f"The quote {quote} is opened and not closed", step, start)
    return "".join(text), position + 1
