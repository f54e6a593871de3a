"""What can go wrong, as a small tree that callers catch by cause.

Every message says what was wrong, the value got, what is allowed, and the cure.
"""


class BalanceRouteError(Exception):
    """Base of every error that BalanceRoute raises on purpose."""


class ConfigError(BalanceRouteError):
    """A setting, policy name or parameter is not usable."""


class TraceError(BalanceRouteError):
    """A trace file cannot be read, or holds a row that no rule covers."""


class PlanError(BalanceRouteError):
    """A policy returned a plan that breaks the contract of `Policy.plan`."""


class OutputError(BalanceRouteError):
    """A result could not be written."""


class DownloadError(BalanceRouteError):
    """A public trace could not be fetched whole."""


class MissingExtraError(BalanceRouteError):
    """An optional dependency is needed; the message names the extra to install."""


class ModelError(BalanceRouteError):
    """A saved termination classifier cannot be read."""


class LogError(BalanceRouteError):
    """A decision log cannot be read or replayed."""


class WorkerError(BalanceRouteError):
    """A process that worked on a part of something died."""
