"""How many tokens a prompt has, before any engine has counted them."""

from __future__ import annotations

from balanceroute.live.wire import MESSAGE_TOKENS, RequestFacts

FIRST_BYTES_PER_TOKEN = 4.0  # English text, most tokenizers
KEPT = 0.99  # of what was learned, per answer
FEWEST_BYTES = 64  # below that, what a template adds says more than the text


class PromptCounter:
    """Estimates prompt lengths from bytes, and learns from the usage that engines state.

    Examples
    --------
    >>> from balanceroute.live.wire import read_request
    >>> facts = read_request("/v1/completions", b'{"prompt": "%s"}' % (b"word " * 160))
    >>> counter = PromptCounter()
    >>> counter.count(facts)
    200
    >>> for _ in range(1000):
    ...     counter.learn(facts, 160)
    >>> counter.count(facts)
    160
    """

    def __init__(self) -> None:
        # As if a text of so many bytes had been seen already.
        self._bytes, self._tokens = 4096.0, 4096.0 / FIRST_BYTES_PER_TOKEN

    @property
    def bytes_per_token(self) -> float:
        """Return what a token of prompt has been worth so far."""
        return self._bytes / self._tokens

    def count(self, facts: RequestFacts) -> int:
        """Return the tokens of a prompt, exact for token ids, at least 1."""
        if facts.prompt_ids is not None:
            return facts.prompt_ids
        in_text = round(facts.prompt_bytes / self.bytes_per_token)
        return max(1, in_text + MESSAGE_TOKENS * facts.num_messages)

    def learn(self, facts: RequestFacts, prompt_tokens: int) -> None:
        """Take in how long a prompt has turned out to be."""
        in_text = prompt_tokens - MESSAGE_TOKENS * facts.num_messages
        if facts.prompt_ids is not None or facts.prompt_bytes < FEWEST_BYTES or in_text < 1:
            return
        self._bytes = KEPT * self._bytes + facts.prompt_bytes
        self._tokens = KEPT * self._tokens + in_text
