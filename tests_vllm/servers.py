"""Real vLLM servers for tests: started, asked, and stopped with all that they have started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

SHIM = Path(__file__).parent / "shim"
START_S, STOP_S, ASK_S = 420.0, 20.0, 60.0
STOP_TOKEN = 5
WARM_TOKENS = 40  # a fresh CPU server may die of a first prompt that is tiny
COMMON = {
    "--host": "127.0.0.1",
    "--load-format": "dummy",
    "--dtype": "float32",  # without AVX-512 a first request in bfloat16 never ends
    "--max-model-len": "2048",
    "--block-size": "32",
    "--served-model-name": "tiny",
}
ONE_API_SERVER = ("vllm.entrypoints.openai.api_server", "--model")  # whatever its flags say
ANY_API_SERVERS = ("tests_vllm.serve", "serve")
FLAGS = ("--enforce-eager", "--no-enable-prefix-caching", "--disable-uvicorn-access-log")
ON = MappingProxyType({"BALANCEROUTE_VLLM": "1"})
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "fork",  # so that one process imports everything, not six
    "BALANCEROUTE_VLLM_ANY_VERSION": "1",  # which are the tested ones is found out here
}


class Server:
    """One server on a port of the loopback interface."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log
        self.url = f"http://127.0.0.1:{port}"

    @property
    def log(self) -> str:
        """Return what it has said."""
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> str:
        """Return an answer's text."""
        with urllib.request.urlopen(self.url + path, timeout=ASK_S) as answer:  # noqa: S310
            text: str = answer.read().decode()
        return text

    def complete(self, prompt_tokens: int, output_tokens: int, **headers: str) -> dict[str, Any]:
        """Return the answer to one request, or what the error says."""
        body = completion(prompt_tokens, output_tokens)
        request = urllib.request.Request(  # noqa: S310
            self.url + "/v1/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | _header_names(headers),
        )
        try:
            with urllib.request.urlopen(request, timeout=ASK_S) as answer:  # noqa: S310
                read: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            read = json.load(error)
        return read

    def metrics(self) -> dict[str, float]:
        """Return its metrics by name, with the rank after an ``@`` where there is one."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                labels = dict(sample.labels)
                labels.pop("model_name", None)
                rank = labels.pop("engine", labels.pop("rank", None))
                if "le" in labels:
                    continue
                extra = "".join(f"/{value}" for value in labels.values())
                key = sample.name + extra + (f"@{rank}" if rank is not None else "")
                found[key] = found.get(key, 0.0) + sample.value
        return found

    def is_up(self) -> bool:
        """Tell whether it answers."""
        try:
            self.get("/health")
        except (OSError, urllib.error.URLError):
            return False
        return True


def _header_names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def completion(prompt_tokens: int, output_tokens: int, **settings: Any) -> dict[str, Any]:
    """Return the body of a request for so many tokens, with a prompt unlike others."""
    first = prompt_tokens * 31 + output_tokens
    prompt = [(first + 7 * number) % 250 + 1 for number in range(prompt_tokens)]
    return {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": output_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
    } | settings


def stopping(output_tokens: int, limit: int) -> dict[str, Any]:
    """Return the settings of a request that ends by a stop token, and could give more tokens."""
    return {
        "max_tokens": limit,
        "min_tokens": output_tokens - 1,
        "stop_token_ids": [STOP_TOKEN],
        "logit_bias": {str(STOP_TOKEN): 100.0},  # as soon as it may be, it is
    }


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def running_server(
    folder: Path,
    model: Path,
    *arguments: str,
    ranks: int = 2,
    entry: tuple[str, str] = ONE_API_SERVER,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Server]:
    """Start a server, warm its ranks, and stop it in the end with all of its processes."""
    port = free_port()
    log = folder / f"server-{port}.log"
    command = [sys.executable, "-m", *entry, str(model)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), *chain(*COMMON.items()), *FLAGS, *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment(environment),
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        wait_until_up(server)
        for rank in range(ranks):
            server.complete(WARM_TOKENS, 2, X_data_parallel_rank=str(rank))
        yield server
    finally:
        stop(server)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "BALANCEROUTE" not in name}
    path = os.pathsep.join([str(SHIM), *filter(None, [kept.get("PYTHONPATH")])])
    return kept | ENVIRONMENT | {"PYTHONPATH": path} | dict(more)


def wait_until_up(server: Server) -> None:
    """Wait for the first answer; fail with the end of the log."""
    deadline_s = time.monotonic() + START_S
    while not server.is_up():
        if server.process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError("the server did not start:\n" + server.log[-6000:])
        time.sleep(0.5)


def stop(server: Server) -> None:
    """End a server and what it has started."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait(STOP_S)
