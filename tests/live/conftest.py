from __future__ import annotations

from tests.live.following import follow, quick

__all__ = ["follow", "quick"]
