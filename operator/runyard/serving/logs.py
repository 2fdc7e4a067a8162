"""Logs, one line a record, as text or JSON. Tracebacks are folded into the line."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Literal

from runyard_trainer.contract.exits import UserError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that end a line or control a terminal: messages quote what others have written."""

LogFormat = Literal["text", "json"]


class OneLineFormatter(logging.Formatter):
    """A formatter of text: `2026-01-31T12:00:00Z INFO runyard.cluster.lease message`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), super().format(record))


class JsonFormatter(OneLineFormatter):
    """A formatter of JSON: time, level, logger, message and, of an error, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record, self.datefmt) + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure_logging(log_format: str, level: str) -> None:
    """Log to stderr; of kopf and the HTTP client only warnings and errors. Raises UserError for unknown values."""
    formatters: dict[str, type[logging.Formatter]] = {"text": OneLineFormatter, "json": JsonFormatter}
    if log_format not in formatters:
        raise UserError(f"RUNYARD_LOG_FORMAT is {log_format!r}: set it to text or json")
    if level not in logging.getLevelNamesMapping():
        raise UserError(f"RUNYARD_LOG_LEVEL is {level!r}: set it to DEBUG, INFO, WARNING or ERROR")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatters[log_format]())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("kopf", "aiohttp", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("kubernetes").setLevel(logging.ERROR)  # what it warns of reaches us as an exception besides
