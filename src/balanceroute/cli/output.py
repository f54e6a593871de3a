"""Output to standard output that is whole or an error."""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import TYPE_CHECKING

from balanceroute.errors import OutputError

if TYPE_CHECKING:
    from rich.console import RenderableType


def print_bytes(data: bytes) -> None:
    """Write `data` and a line end to standard output, and notice if that fails."""
    try:
        sys.stdout.buffer.write(data.rstrip(b"\n") + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_stdout()
        raise OutputError(
            f"standard output cannot be written: {error.strerror}; write it elsewhere"
        ) from error


def print_text(text: str) -> None:
    """Print a line, or several."""
    print_bytes(text.encode(sys.stdout.encoding or "utf-8", errors="replace"))


def abandon_stdout() -> None:
    """Let what is still buffered go nowhere; the interpreter would fail over it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_rich(*parts: RenderableType) -> None:
    """Print tables and text, fitted to the terminal."""
    from rich.console import Console

    page = io.StringIO()
    width = shutil.get_terminal_size().columns
    console = Console(file=page, force_terminal=sys.stdout.isatty(), width=width)
    for part in parts:
        console.print(part, highlight=False)
    print_text(page.getvalue())
