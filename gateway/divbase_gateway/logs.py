"""How the gateway logs: an event name and keys, as JSON or for a terminal. It has no events of its own."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor


def set_up_logs(
    log_format: Literal["json", "console"] = "json", level: str = "info", stream: TextIO | None = None
) -> None:
    """Log from `level` up to `stream` (standard error by default); lines of libraries come in the same form."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    target = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *_renderers(log_format)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(log_format)],
        )
    )
    # Libraries speak only from warnings up: their chatter at lower levels can hold URLs with signatures.
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


def _renderers(log_format: str) -> list[Processor]:
    if log_format == "console":
        # Plain tracebacks: the rich ones print every local variable, secrets included, and take seconds.
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
