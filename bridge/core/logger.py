"""The bridge's logger: one line on stderr per event that matters, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

logger = logging.getLogger("bridge")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = {"time": _stamp(record), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            facts["trace"] = self.formatException(record.exc_info)
        return json.dumps(facts | getattr(record, "facts", {}), ensure_ascii=False)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = f"{_stamp(record)} {record.levelname.lower():7} {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _stamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def set_up(log_format: str, verbosity: int) -> None:
    """Sets up the bridge's logger to write to stderr as text or as JSON.

    `verbosity`: -1 only errors, 0 what matters, 1 everything.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel({-1: logging.ERROR, 0: logging.INFO}.get(verbosity, logging.DEBUG))


def redirect(stream: TextIO) -> None:
    """Redirects the bridge's logger to another text stream."""
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(stream)
