"""What all tests share."""

from __future__ import annotations

import hypothesis
import pytest

# The first example of a property may compile a kernel.
hypothesis.settings.register_profile("balanceroute", deadline=None)
hypothesis.settings.load_profile("balanceroute")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag without which golden files are only ever compared."""
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write tests/golden/*.jsonl anew; explain the change under changelog.d (placement)",
    )
