"""After the warm-up no request waits for a compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("policy", "kind"),
    [("br_auto", "decode"), ("br_auto", "prefill"), ("br_auto", "learnt"), ("br_h", "decode")],
)
def test_nothing_is_compiled_under_load(policy: str, kind: str) -> None:
    """Whatever comes. In a process of its own, since other tests compile kernels too."""
    command = [sys.executable, "-m", "tests.live.warmed", policy, kind]
    ended = subprocess.run(  # our own module
        command, capture_output=True, text=True, check=True, timeout=300
    )
    assert ended.stdout.split() == []
