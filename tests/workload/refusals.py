"""What reading a bad trace says."""

from __future__ import annotations

from pathlib import Path

import pytest

from balanceroute.errors import TraceError
from balanceroute.workload import read_trace


def message(path: Path) -> str:
    """Return the message without the file's name; it is one line and says what to do."""
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    assert ";" in text, "the cure follows a semicolon"
    return text.removeprefix(str(path))
