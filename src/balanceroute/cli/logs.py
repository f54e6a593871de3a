"""How the router's log is written."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from balanceroute.errors import ConfigError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
FORMATS = ("text", "json")


class JsonFormatter(logging.Formatter):
    """An object per line: ``time`` (UTC), ``level``, ``logger``, ``message``, ``exception``.

    Examples
    --------
    >>> record = logging.LogRecord("live", logging.ERROR, "", 0, "rank %s is away", ("a",), None)
    >>> record.created = 0.0
    >>> JsonFormatter().format(record)[:63]
    '{"time": "1970-01-01T00:00:00.000+00:00", "level": "error", "lo'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logging(level: str, style: str) -> None:
    """Write log messages of a level and above to standard error.

    Raises
    ------
    ConfigError
        For a level or style that there is not.
    """
    if level.upper() not in LEVELS:
        raise ConfigError(f"--log-level must be one of {', '.join(LEVELS).lower()}, got {level!r}")
    if style not in FORMATS:
        raise ConfigError(f"--log-format must be one of {', '.join(FORMATS)}, got {style!r}")
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if style == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])
