"""Public traces: where they are, under which licence, and how to fetch them whole.

A download goes to ``NAME.part`` first. Broken off, it is continued there, by the same call or by a
later one; the file gets its name only when its length and its SHA-256 are those published.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from balanceroute.errors import DownloadError, OutputError

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0  # without a single byte
MAX_TRIES = 5  # in a row that bring nothing new
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)

OnBytes = Callable[[int, int], None]  # called with bytes on disk and bytes in all


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicTrace:
    """A trace file that anyone may download.

    Attributes
    ----------
    name : str
        What the command line calls it.
    url : str
        Where its owner keeps it.
    num_bytes : int
        Length of the file.
    sha256 : str
        Its checksum, hexadecimal.
    num_requests : int
        Rows in the file.
    licence, citation : str
        Terms, and the paper to cite.
    """

    name: str
    url: str
    num_bytes: int
    sha256: str
    num_requests: int
    licence: str
    citation: str

    @property
    def file_name(self) -> str:
        """Return the last part of the address."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1]


_AZURE = "https://github.com/Azure/AzurePublicDataset/releases/download/dataset-llm-2024"
_RAW = "https://raw.githubusercontent.com"
_ALL = (
    PublicTrace(
        name="azure-2024-conv",
        url=f"{_AZURE}/AzureLLMInferenceTrace_conv_1week.csv",
        num_bytes=1_135_195_393,
        sha256="a0cc9b969a9bbf0fd811802cbf4323edd3a209ace791e3799ad4f9207f213941",
        num_requests=27_303_999,
        licence="CC-BY-4.0",
        citation="Stojkovic et al., DynamoLLM, HPCA 2025",
    ),
    PublicTrace(
        name="azure-2024-code",
        url=f"{_AZURE}/AzureLLMInferenceTrace_code_1week.csv",
        num_bytes=691_989_454,
        sha256="71de5c55cbc35f8f1ed0b6b7806b4cd1e9764b0058469725a6aac98023a1448f",
        num_requests=16_803_695,
        licence="CC-BY-4.0",
        citation="Stojkovic et al., DynamoLLM, HPCA 2025",
    ),
    PublicTrace(
        name="azure-2023-conv",
        url=f"{_RAW}/Azure/AzurePublicDataset/master/data/AzureLLMInferenceTrace_conv.csv",
        num_bytes=719_188,
        sha256="2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        num_requests=19_366,
        licence="CC-BY-4.0",
        citation="Patel et al., Splitwise, ISCA 2024",
    ),
    PublicTrace(
        name="azure-2023-code",
        url=f"{_RAW}/Azure/AzurePublicDataset/master/data/AzureLLMInferenceTrace_code.csv",
        num_bytes=320_117,
        sha256="54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
        num_requests=8_819,
        licence="CC-BY-4.0",
        citation="Patel et al., Splitwise, ISCA 2024",
    ),
    PublicTrace(
        name="burstgpt",
        url=f"{_RAW}/HPMLL/BurstGPT/main/data/BurstGPT_1.csv",
        num_bytes=50_853_373,
        sha256="46fc9480ef0b748ecb2b51d512ff08c196b031782cbe6f78e28044d768e86d5a",
        num_requests=1_429_737,
        licence="CC-BY-4.0",
        citation="Wang et al., BurstGPT, KDD 2025",
    ),
    PublicTrace(
        name="mooncake-conversation",
        url=f"{_RAW}/kvcache-ai/Mooncake/main/FAST25-release/traces/conversation_trace.jsonl",
        num_bytes=3_029_533,
        sha256="b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
        num_requests=12_031,
        licence="Apache-2.0",
        citation="Qin et al., Mooncake, FAST 2025",
    ),
)
PUBLIC_TRACES = {trace.name: trace for trace in _ALL}


def download(
    trace: PublicTrace,
    folder: Path,
    *,
    url: str | None = None,
    on_bytes: OnBytes | None = None,
    pause_s: float = 1.0,
) -> Path:
    """Fetch a public trace into a folder, unless it is there already.

    Parameters
    ----------
    trace : PublicTrace
        What to fetch.
    folder : Path
        Created if missing.
    url : str or None
        A mirror to fetch it from; length and checksum must still be those of `trace`.
    on_bytes : callable or None
        Called after every piece with the bytes on disk and the bytes in all.
    pause_s : float
        Wait before the second try, seconds; it doubles with every further one.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DownloadError
        If the server does not deliver the file, or delivers another one.
    OutputError
        If the folder cannot be written, or is full.
    """
    path = folder / trace.file_name
    partial = folder / f"{trace.file_name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and _has_checksum(trace, path):
            return path
        _fetch_rest(trace, partial, url or trace.url, on_bytes, pause_s)
        if not _has_checksum(trace, partial):
            partial.unlink()
            raise DownloadError(
                f"{url or trace.url}: length or SHA-256 is not that of {trace.name}; the download "
                "was removed, so try again or name another mirror with --url"
            )
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path}: could not be written ({error.strerror or error}); make room or choose "
            "another folder with --out, and the download goes on where it stopped"
        ) from error
    return path


def _fetch_rest(
    trace: PublicTrace, partial: Path, url: str, on_bytes: OnBytes | None, pause_s: float
) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: not a web address; it must start with http:// or https://")
    num_failed = 0
    while (have := _size(partial)) < trace.num_bytes:
        reason = _fetch_once(trace, partial, url, on_bytes)
        num_failed = 0 if _size(partial) > have else num_failed + 1
        if num_failed == MAX_TRIES:
            raise DownloadError(
                f"{url}: {reason}, {MAX_TRIES} times in a row; check the connection and run the "
                f"command again, which goes on after {_size(partial):,} bytes"
            )
        if reason:
            time.sleep(pause_s * 2 ** max(0, num_failed - 1))


def _fetch_once(
    trace: PublicTrace, partial: Path, url: str, on_bytes: OnBytes | None
) -> str | None:
    """Append what one connection brings to the partial file; return why it stopped, if early."""
    request = Request(url, headers={"User-Agent": "balanceroute"})  # noqa: S310  # checked scheme
    have = _size(partial)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urlopen(request, timeout=TIMEOUT_S)  # noqa: S310  # checked scheme
    except HTTPError as error:
        error.close()
        reason = f"the server answered {error.code} {error.reason}"
        if error.code in RETRIED_STATUS:
            return reason
        raise DownloadError(f"{url}: {reason}; name another mirror with --url") from error
    except (OSError, HTTPException) as error:
        return f"no connection ({getattr(error, 'reason', error)})"
    with response:
        is_continued = response.status == 206
        if is_continued and _range_start(response) != have:
            return "the server sent another part of the file than asked for"
        num_bytes = _announced_bytes(response, have if is_continued else 0)
        if num_bytes not in (None, trace.num_bytes):
            raise DownloadError(
                f"{url}: offers {num_bytes:,} bytes where {trace.name} has {trace.num_bytes:,}; "
                "name another mirror with --url"
            )
        with partial.open("ab" if is_continued else "wb") as out:
            return _copy(response, out, trace.num_bytes, on_bytes)


def _copy(
    response: HTTPResponse, out: BinaryIO, num_bytes: int, on_bytes: OnBytes | None
) -> str | None:
    while out.tell() <= num_bytes:  # a file that is too long is found by its checksum
        try:
            chunk = response.read(CHUNK_BYTES)
        except (OSError, HTTPException) as error:
            return f"the connection broke ({error})"
        if not chunk:
            break
        out.write(chunk)
        if on_bytes:
            on_bytes(out.tell(), num_bytes)
    return "the connection was closed early" if out.tell() < num_bytes else None


def _announced_bytes(response: HTTPResponse, have: int) -> int | None:
    length = response.headers.get("Content-Length")
    return None if length is None else have + int(length)


def _range_start(response: HTTPResponse) -> int | None:
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    start = span.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _has_checksum(trace: PublicTrace, path: Path) -> bool:
    if _size(path) != trace.num_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == trace.sha256
