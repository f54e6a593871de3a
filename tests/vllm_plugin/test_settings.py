from __future__ import annotations

from pathlib import Path

import pytest

from balanceroute.errors import ConfigError
from balanceroute.vllm_plugin.settings import PluginSettings, mode_of, read_settings


@pytest.mark.parametrize(
    ("text", "mode"),
    [("", "off"), ("0", "off"), ("off", "off"), ("1", "route"), ("ON", "route"), ("observe",) * 2],
)
def test_the_switch(text: str, mode: str) -> None:
    """As operators write switches."""
    assert mode == mode_of({"BALANCEROUTE_VLLM": text})


def test_variables_go_before_the_file(tmp_path: Path) -> None:
    """Names in the file are those of the settings, with either kind of dash."""
    path = tmp_path / "plugin.yaml"
    path.write_text("policy: least_tokens\nqueue-size: 7\nslots: 3\n")
    settings = read_settings({"BALANCEROUTE_CONFIG": str(path), "BALANCEROUTE_SLOTS": "64"})
    assert PluginSettings(policy="least_tokens", queue_size=7, slots=64) == settings


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("slots: 0", "Expected `int` >= 1"),
        ("polici: br_0", "unknown field `polici`"),
        ("- a", "must hold settings as `name: value`"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str, word: str) -> None:
    """With what is wrong in it."""
    path = tmp_path / "plugin.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=word) as raised:
        read_settings({"BALANCEROUTE_CONFIG": str(path)})
    assert "plugin.yaml" in str(raised.value)


def test_a_missing_file_is_named() -> None:
    """And the variable that names it."""
    with pytest.raises(ConfigError, match=r"BALANCEROUTE_CONFIG: cannot read nowhere\.yaml"):
        read_settings({"BALANCEROUTE_CONFIG": "nowhere.yaml"})


@pytest.mark.parametrize(
    ("name", "text"),
    [("SLOTS", "0"), ("SLOTS", "many"), ("QUEUE_TIMEOUT_SECS", "0"), ("SETTLE_SECS", "2")],
)
def test_a_bad_variable_is_named(name: str, text: str) -> None:
    """By its whole name."""
    with pytest.raises(ConfigError, match=f"^BALANCEROUTE_{name}: "):
        read_settings({f"BALANCEROUTE_{name}": text})
