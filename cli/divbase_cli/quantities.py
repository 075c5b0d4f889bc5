"""Memory, time and sizes as people and SLURM write them: `64G`, `2h`, `1d12h`, `2TB`. It knows no command."""

from __future__ import annotations

import re
from decimal import Decimal
from math import ceil

from divbase_cli.failure import UsageError

_MEGABYTES = {"M": 1, "G": 1024, "T": 1024 * 1024}
_MINUTES = {"d": 24 * 60, "h": 60, "m": 1}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([MGT])(?:i?B)?", re.IGNORECASE)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGTP])B?", re.IGNORECASE)
_TIME = re.compile(r"(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?", re.IGNORECASE)


def parse_memory(text: str, option: str) -> int:
    """Megabytes of 2^20 bytes, as SLURM counts them, rounded up. Raises UsageError, which names the option."""
    found = _MEMORY.fullmatch(text.strip())
    megabytes = ceil(float(found[1]) * _MEGABYTES[found[2].upper()]) if found else 0
    if megabytes < 1:
        raise UsageError(f"{option} {text!r} is no amount of memory.", hint="Write it as 1500M, 64G or 1.5T.")
    return megabytes


def parse_size(text: str, option: str) -> int:
    """Bytes; units are powers of 1000, as in everything that is printed. Raises UsageError, which names the option."""
    found = _SIZE.fullmatch(text.strip())
    if text.strip() == "0":
        return 0
    if found is None:
        raise UsageError(f"{option} {text!r} is no size.", hint="Write it as 500GB or 1.5TB.")
    factor: int = 1000 ** ("KMGTP".index(found[2].upper()) + 1)
    return round(Decimal(found[1]) * factor)


def parse_minutes(text: str, option: str) -> int:
    """Whole minutes. Raises UsageError, which names the option."""
    found = _TIME.fullmatch(text.strip())
    counts = [int(count or 0) for count in found.groups()] if found else []
    minutes = sum(count * unit for count, unit in zip(counts, _MINUTES.values(), strict=False))
    if minutes < 1:
        raise UsageError(f"{option} {text!r} is no length of time.", hint="Write it as 90m, 12h, 2d or 1d12h.")
    return minutes


def shown_memory(megabytes: int) -> str:
    """As `parse_memory` reads it, in the largest unit that is exact."""
    unit = next(name for name, size in reversed(_MEGABYTES.items()) if megabytes % size == 0)
    return f"{megabytes // _MEGABYTES[unit]}{unit}"


def shown_minutes(minutes: int) -> str:
    """As `parse_minutes` reads it: `1d12h`."""
    words = []
    for name, size in _MINUTES.items():
        count, minutes = divmod(minutes, size)
        words += [f"{count}{name}"] if count else []
    return "".join(words) or "0m"
