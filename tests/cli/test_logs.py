"""The router's log as objects."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from typer.testing import CliRunner

from balanceroute.cli import app
from balanceroute.cli.logs import JsonFormatter
from balanceroute.errors import ConfigError


def test_a_line_is_one_object_also_with_a_traceback() -> None:
    """Line breaks in messages and tracebacks do not break lines."""
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord(
            "live", logging.ERROR, "", 0, "failed:\n%s", ("x",), sys.exc_info()
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert ("error", "live", "failed:\nx") == (told["level"], told["logger"], told["message"])
    assert told["exception"].endswith("ValueError: two\nlines")


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--log-format=xml", "--log-format must be one of text, json"), ("--log-level=loud", "loud")],
)
def test_other_formats_are_refused(flag: str, words: str) -> None:
    """With what there is."""
    with pytest.raises(ConfigError, match=words):
        CliRunner().invoke(app, ["serve", "http://127.0.0.1:1", flag], catch_exceptions=False)
