"""Settings as text, read as their constructor asks for."""

from __future__ import annotations

import re
from typing import Any, Literal, Optional

import pytest

from balanceroute.errors import ConfigError
from balanceroute.specs import parse_setting, read_settings


@pytest.mark.parametrize(
    ("text", "hint", "expected"),
    [
        ("8", int, 8),
        ("1e-3", float, 1e-3),
        ("8", float, 8.0),
        ("TRUE", bool, True),
        ("false", bool, False),
        ("a b", str, "a b"),
        ("any", Literal["auto", "none"], "any"),  # the constructor knows its choices
        ("8", int | None, 8),
        ("None", int | None, None),
        ("8", Optional[int], 8),  # noqa: UP045  # as older code writes it
        ("0.5", float | Literal["auto"], 0.5),
        ("auto", float | Literal["auto"], "auto"),
        ("auto", float | str, "auto"),
    ],
)
def test_a_setting_is_read_as_its_type(text: str, hint: Any, expected: object) -> None:
    """The first type of a union that fits is taken."""
    value = parse_setting("policy p", "key", text, hint)
    assert (expected, type(expected)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "hint", "message"),
    [
        ("4.5", int, "setting key must be of type int, got '4.5'"),
        ("", float, "setting key must be of type float, got ''"),
        ("yes", bool, "setting key must be of type bool, got 'yes'"),
        ("x", float | None, "setting key must be of type float or none, got 'x'"),
        ("x", float | Literal["auto", "off"], "of type float or 'auto' or 'off', got 'x'"),
        ("x", list[int], "policy p: setting key must be of type list, got 'x'"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, hint: Any, message: str) -> None:
    """The types that are allowed, and the text got."""
    with pytest.raises(ConfigError, match=message):
        parse_setting("policy p", "key", text, hint)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["k=1", "k=2"], "policy p: setting 'k' is given twice"),
        (["kk=1"], "unknown setting 'kk' for policy p; did you mean 'k'? Known: k, other"),
        (["k"], "unknown setting 'k' for policy p"),
        ([""], "unknown setting '' for policy p. Known: k, other"),
    ],
)
def test_settings_that_do_not_fit(settings: list[str], message: str) -> None:
    """Given twice, not known, or without a value."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_settings("policy p", settings, ["k", "other"])
