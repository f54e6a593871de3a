import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from balanceroute.errors import DownloadError, OutputError
from balanceroute.workload.download import PUBLIC_TRACES, PublicTrace, download

CONTENT = bytes(range(256)) * 400


class Server(ThreadingHTTPServer):
    """A file server that misbehaves as told.

    `plan` holds what the next answers do: "whole" ignores ranges, "range" honours them, a number
    closes the connection after so many bytes, "503" and "404" are those answers. The last stays.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.plan: list[str] = ["range"]
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some/trace.csv"


class Handler(BaseHTTPRequestHandler):
    """Answers GET with the server's content."""

    server: Server

    def do_GET(self) -> None:
        """Answer as the plan says."""
        server = self.server
        step = server.plan.pop(0) if len(server.plan) > 1 else server.plan[0]
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if step in ("404", "503"):
            self.send_error(int(step))
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and step != "whole" else 0
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            span = f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            self.send_header("Content-Range", span)
        self.end_headers()
        self.wfile.write(body[: int(step)] if step.isdigit() else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Keep the tests quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def trace(content: bytes = CONTENT) -> PublicTrace:
    return PublicTrace(
        name="tiny",
        url="https://unreachable.invalid/some/trace.csv",
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        num_requests=1,
        licence="CC0-1.0",
        citation="nobody",
    )


def test_download_reports_progress_and_names_the_file(server: Server, tmp_path: Path) -> None:
    """The file lands under the trace's own name, and the last report is the whole length."""
    seen: list[tuple[int, int]] = []
    folder = tmp_path / "new"
    path = download(
        trace(), folder, url=server.url, on_bytes=lambda have, total: seen.append((have, total))
    )
    assert folder / "trace.csv" == path
    assert path.read_bytes() == CONTENT
    assert (len(CONTENT), len(CONTENT)) == seen[-1]
    assert [path] == list(folder.iterdir())


def test_a_complete_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    """Length and checksum are looked at first."""
    download(trace(), tmp_path, url=server.url)
    download(trace(), tmp_path, url=server.url)
    assert len(server.ranges) == 1


def test_a_part_from_an_earlier_run_is_continued(server: Server, tmp_path: Path) -> None:
    """Only the missing bytes are asked for."""
    (tmp_path / "trace.csv.part").write_bytes(CONTENT[:1000])
    path = download(trace(), tmp_path, url=server.url)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    """An answer of 200 to a range is the whole file, which replaces the part."""
    (tmp_path / "trace.csv.part").write_bytes(b"x" * 1000)
    server.plan = ["whole"]
    assert download(trace(), tmp_path, url=server.url).read_bytes() == CONTENT


def test_broken_connections_are_continued(server: Server, tmp_path: Path) -> None:
    """However often a connection breaks, it goes on as long as something new arrives."""
    server.plan = ["503", "10000", "503", "20000", "503", "503", "1", "30000", "range"]
    path = download(trace(), tmp_path, url=server.url, pause_s=0.0)
    assert path.read_bytes() == CONTENT
    starts = [None, None, 10_000, 10_000, 30_000, 30_000, 30_000, 30_001, 60_001]
    assert [start and f"bytes={start}-" for start in starts] == server.ranges


@pytest.mark.parametrize(
    ("step", "reason"),
    [("503", "the server answered 503"), ("0", "the connection was closed early")],
)
def test_giving_up_keeps_the_part(step: str, reason: str, server: Server, tmp_path: Path) -> None:
    """After five tries without a byte the message says how to go on."""
    server.plan = ["1234", step]
    with pytest.raises(DownloadError) as caught:
        download(trace(), tmp_path, url=server.url, pause_s=0.0)
    assert reason in str(caught.value)
    assert "5 times in a row" in str(caught.value)
    assert "goes on after 1,234 bytes" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [tmp_path / "trace.csv.part"] == list(tmp_path.iterdir())


def test_no_server_at_all(tmp_path: Path) -> None:
    """A refused connection is one line."""
    with Server() as unheard:
        url = unheard.url
    with pytest.raises(DownloadError, match=r"no connection .*refused"):
        download(trace(), tmp_path, url=url, pause_s=0.0)


def test_not_found(server: Server, tmp_path: Path) -> None:
    """Asking again would not help."""
    server.plan = ["404"]
    with pytest.raises(DownloadError, match="answered 404 Not Found; name another mirror"):
        download(trace(), tmp_path, url=server.url)
    assert len(server.ranges) == 1


def test_wrong_length(server: Server, tmp_path: Path) -> None:
    """A page that says "not here" with status 200 is not taken for a trace."""
    server.content = b"<html>"
    with pytest.raises(DownloadError, match="offers 6 bytes where tiny has 102,400"):
        download(trace(), tmp_path, url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_wrong_content(server: Server, tmp_path: Path) -> None:
    """Right length, other bytes: refused and removed."""
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match="SHA-256 is not that of tiny"):
        download(trace(), tmp_path, url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_part_does_not_survive(server: Server, tmp_path: Path) -> None:
    """A part of another file fails the checksum, and the next run starts clean."""
    (tmp_path / "trace.csv.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="try again"):
        download(trace(), tmp_path, url=server.url)
    assert download(trace(), tmp_path, url=server.url).read_bytes() == CONTENT


def test_only_web_addresses(tmp_path: Path) -> None:
    """file:// and the like are refused."""
    with pytest.raises(DownloadError, match="must start with http"):
        download(trace(), tmp_path, url="file:///etc/passwd")


def test_folder_is_a_file(tmp_path: Path) -> None:
    """A folder that cannot be made is an output error."""
    (tmp_path / "here").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        download(trace(), tmp_path / "here", url="http://127.0.0.1:1/x")


def test_full_disk_keeps_the_part(server: Server, tmp_path: Path) -> None:
    """What was written stays a correct beginning, from which the next run goes on."""
    resource = pytest.importorskip("resource", reason="limits of file size exist on POSIX only")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # Python ignores the signal
    try:
        with pytest.raises(OutputError, match="make room or choose another folder"):
            download(trace(), tmp_path, url=server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    part = Path(tmp_path / "trace.csv.part").read_bytes()
    assert CONTENT.startswith(part)
    assert download(trace(), tmp_path, url=server.url).read_bytes() == CONTENT


def test_public_traces_are_well_described() -> None:
    """Checksums look like SHA-256, addresses are secure, keys are names."""
    for key, public in PUBLIC_TRACES.items():
        assert key == public.name
        assert public.url.startswith("https://")
        assert len(public.sha256) == 64
        assert int(public.sha256, 16)
        assert public.file_name.endswith((".csv", ".jsonl"))
