"""The bodies and headers of requests."""

from __future__ import annotations

import msgspec

from balanceroute.loadgen.config import LoadConfig
from balanceroute.loadgen.prompts import PromptBook
from balanceroute.types import Workload

LENGTH_HEADER = "X-Emulated-Output-Tokens"
TEMPLATE_TOKENS = 4  # what a chat template adds to a message, about


class RequestMaker:
    """Makes each request's body and headers.

    In mode ``header`` nothing on the way may give the output's length away, so ``max_tokens`` is
    sent only if the trace has one. A router then knows as much as a policy in the simulator, and
    both endpoints work: the emulated server holds the length in the header to the limits that a
    client gives, not to the 16 tokens that a completion has by default.

    Parameters
    ----------
    workload : Workload
        Lengths.
    config : LoadConfig
        Form.
    model : str
        Name of the model.

    Examples
    --------
    >>> import numpy as np
    >>> lengths = np.array([2], np.int32)
    >>> workload = Workload(
    ...     name="w", prompt_tokens=lengths, output_tokens=3 * lengths, max_tokens=lengths + 7
    ... )
    >>> config = LoadConfig(url="http://h:1", is_streamed=False)
    >>> maker = RequestMaker(workload, config, model="m")
    >>> maker.body(0), maker.headers(0)[LENGTH_HEADER]
    (b'{"model":"m","prompt":[7267,4439],"max_tokens":9}', '6')
    """

    def __init__(self, workload: Workload, config: LoadConfig, *, model: str) -> None:
        self._workload = workload
        self._is_chat = config.api == "chat"
        self._is_exact = config.lengths == "ignore-eos"
        self._prompts = PromptBook(workload, config.prompt_kind, seed=config.seed)
        before, after = b'"prompt":', b""
        if self._is_chat:
            before, after = b'"messages":[{"role":"user","content":', b"}]"
        self._before = b'{"model":' + msgspec.json.encode(model) + b"," + before
        if config.is_streamed:
            after += b',"stream":true,"stream_options":{"include_usage":true}'
        self._after = after
        self._headers = {"Content-Type": "application/json"}
        if config.api_key is not None:
            self._headers["Authorization"] = f"Bearer {config.api_key}"

    def body(self, row: int) -> bytes:
        """Return the body of a request."""
        prompt = self._prompts.prompt(row, spared_tokens=TEMPLATE_TOKENS if self._is_chat else 0)
        return self._before + prompt + self._after + self._limits(row) + b"}"

    def headers(self, row: int) -> dict[str, str]:
        """Return the headers of a request."""
        if self._is_exact:
            return self._headers
        return self._headers | {LENGTH_HEADER: str(self._workload.output_tokens[row])}

    def _limits(self, row: int) -> bytes:
        if self._is_exact:
            length = int(self._workload.output_tokens[row])
            return b',"max_tokens":%d,"min_tokens":%d,"ignore_eos":true' % (length, length)
        limits = self._workload.max_tokens
        if limits is None or limits[row] == 0:
            return b""
        return b',"max_tokens":%d' % limits[row]
