"""How many tokens a prompt has, before the engine that it goes to has counted them."""

from __future__ import annotations

import logging

from balanceroute.live.wire import MESSAGE_TOKENS, RequestFacts

FIRST_BYTES_PER_TOKEN = 4.0  # English text, most tokenizers
KEPT = 0.99  # of what was learned, per answer
FEWEST_BYTES = 64  # below that, what a template adds says more than the text
FIRST_MESSAGES = 16  # of MESSAGE_TOKENS each, to begin with
DOUBT_RATIO, DOUBT_ANSWERS = 0.05, 32  # a tokenizer that is so far off for so long is another's

log = logging.getLogger(__name__)


class PromptCounter:
    """Estimates prompt lengths from what is known, and learns from the usage that engines state.

    It learns the bytes of text that a token is worth, and where a tokenizer has counted the texts,
    what a chat template adds to each message.

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
        self._messages = float(FIRST_MESSAGES)
        self._template_tokens = self._messages * MESSAGE_TOKENS
        self._error_ratio, self._num_counted, self._has_doubts = 0.0, 0, False

    @property
    def bytes_per_token(self) -> float:
        """Return what a token of prompt has been worth so far."""
        return self._bytes / self._tokens

    @property
    def tokens_per_message(self) -> float:
        """Return what a template has added to a message so far."""
        return self._template_tokens / self._messages

    def count(self, facts: RequestFacts) -> int:
        """Return the tokens of a prompt, exact for token ids, at least 1."""
        if facts.prompt_ids is not None:
            return facts.prompt_ids
        if facts.counted_tokens is not None:
            return max(1, facts.counted_tokens)
        if facts.text_tokens is not None:
            in_template = round(self.tokens_per_message * facts.num_messages)
            return max(1, facts.text_tokens + in_template)
        in_text = round(facts.prompt_bytes / self.bytes_per_token)
        return max(1, in_text + MESSAGE_TOKENS * facts.num_messages)

    def learn(self, facts: RequestFacts, prompt_tokens: int) -> None:
        """Take in how long a prompt has turned out to be; with pictures in it that says nothing."""
        if facts.prompt_ids is not None or facts.has_media or prompt_tokens < 1:
            return
        if facts.text_tokens is not None:
            self._learn_template(facts, facts.text_tokens, prompt_tokens)
        in_text = prompt_tokens - MESSAGE_TOKENS * facts.num_messages
        if facts.prompt_bytes < FEWEST_BYTES or in_text < 1:
            return
        self._bytes = KEPT * self._bytes + facts.prompt_bytes
        self._tokens = KEPT * self._tokens + in_text

    def _learn_template(self, facts: RequestFacts, text_tokens: int, prompt_tokens: int) -> None:
        """Learn what is beyond the texts, and doubt the tokenizer if that makes no sense."""
        error_ratio = abs(self.count(facts) - prompt_tokens) / prompt_tokens
        if prompt_tokens >= FEWEST_BYTES:  # tokens of a few messages tell of the template only
            self._num_counted += 1
            self._error_ratio += (error_ratio - self._error_ratio) / min(
                self._num_counted, DOUBT_ANSWERS
            )
        if facts.num_messages > 0 and prompt_tokens >= text_tokens:
            self._messages = KEPT * self._messages + facts.num_messages
            self._template_tokens = KEPT * self._template_tokens + prompt_tokens - text_tokens
        is_doubtful = self._num_counted >= DOUBT_ANSWERS and self._error_ratio > DOUBT_RATIO
        if is_doubtful and not self._has_doubts:
            log.error(
                "the tokenizer's counts are %.0f per cent off the engine's; is it the model's own?",
                100 * self._error_ratio,
            )
        self._has_doubts = is_doubtful
