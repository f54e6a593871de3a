"""A model's own tokenizer, from a file; the only place that imports the extra of that name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from balanceroute.errors import ConfigError, MissingExtraError

FILE_NAME = "tokenizer.json"  # as model repositories call it


class TokenizerLike(Protocol):
    """Counts the tokens of texts; may be called from several threads at once."""

    def count(self, texts: Sequence[str], *, is_chat: bool) -> int:
        """Return the tokens of all texts; the special ones around a prompt only outside chats."""
        ...


class FileTokenizer:
    """A tokenizer as model repositories ship it.

    Parameters
    ----------
    path : Path
        ``tokenizer.json``, or the folder that it is in.

    Raises
    ------
    MissingExtraError
        If the package that reads it is not installed.
    ConfigError
        If there is no such file, or it is something else.
    """

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "--tokenizer needs tokenizers; install it with: "
                "pip install 'balanceroute[tokenizer]'"
            ) from error
        file = path / FILE_NAME if path.is_dir() else path
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--tokenizer: cannot read {file}: {error}") from error
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the package raises nothing more special
            raise ConfigError(f"--tokenizer: {file} is no {FILE_NAME}: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def count(self, texts: Sequence[str], *, is_chat: bool) -> int:
        """Return the tokens of all texts."""
        # Batches leave the interpreter to others while they are encoded, single texts do not.
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=not is_chat)
        return sum(len(encoding) for encoding in encodings)
