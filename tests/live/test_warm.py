"""After the warm-up no request waits for a compiler."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from balanceroute.live.warm import keep_for_good


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


def test_what_is_there_for_good_is_not_looked_at_again() -> None:
    """The collector looks at what comes later only."""
    gc.unfreeze()
    num_before = len(gc.get_objects())
    keep_for_good()
    try:
        assert len(gc.get_objects()) < num_before // 100
        assert gc.get_freeze_count() > num_before // 2
    finally:
        gc.unfreeze()
