"""Results as JSON documents that say which schema they follow."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from balanceroute.errors import ConfigError

T = TypeVar("T")


def read_document(data: bytes | str, kind: type[T], *, schema: str, command: str) -> T:
    """Decode a document, skipping fields that this version does not know.

    Parameters
    ----------
    data : bytes or str
        JSON.
    kind : type
        What it should be.
    schema, command : str
        How that is called, and which command prints it.

    Raises
    ------
    ConfigError
        If the text is not such a document.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"not a result of schema {schema}: {error}; give the JSON that `{command}` prints"
        ) from error
