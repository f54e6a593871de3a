"""The log of a running router's decisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.config import ServeConfig
from balanceroute.live.decision_file import LogWriter
from balanceroute.live.decisions import Recorder
from balanceroute.live.group import LiveGroup


class DecisionLog:
    """Writes down every plan that a group's policy makes, from its first one on.

    Parameters
    ----------
    path, max_bytes, max_files, on_failure
        As of `LogWriter`.
    group : LiveGroup
        Whose plans.
    costs : StepCosts or None
        As the group was told.
    """

    def __init__(
        self,
        path: Path,
        *,
        group: LiveGroup,
        max_bytes: int,
        max_files: int,
        costs: StepCosts | None,
        on_failure: Callable[[], object] = bool,
    ) -> None:
        self._writer = LogWriter(
            path,
            max_bytes=max_bytes,
            max_files=max_files,
            num_ranks=group.num_ranks,
            costs=costs,
            on_failure=on_failure,
        )
        recorder = Recorder(self._writer.write, group.name_of)
        self.note_policy, self.note_shadow = recorder.note_policy, recorder.note_shadow
        group.plan_watchers.append(recorder.note_plan)

    def close(self) -> None:
        """Write what waits, and end the file."""
        self._writer.close()


def open_log(
    config: ServeConfig,
    group: LiveGroup,
    costs: StepCosts | None,
    on_failure: Callable[[], object],
) -> DecisionLog | None:
    """Return the log that settings ask for, if they do, with the first policy in it."""
    if config.decision_log is None:
        return None
    decisions = DecisionLog(
        Path(config.decision_log),
        group=group,
        max_bytes=config.decision_log_max_bytes,
        max_files=config.decision_log_files,
        costs=costs,
        on_failure=on_failure,
    )
    decisions.note_policy(config.policy, config.seed)
    return decisions
