"""The known formats of trace files, by the names of their columns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """One layout of a trace file.

    Attributes
    ----------
    name : str
        What ``--format`` calls it.
    summary : str
        One phrase for lists.
    marks : tuple of str
        Columns that together tell this format from the others.
    arrivals : tuple of (str, float)
        Accepted arrival columns, best first, each with its unit in seconds. Dates need no unit.
    prompts, outputs : tuple of str
        Accepted columns of prompt and output tokens, best first.
    has_ticks : bool
        Arrivals are rounded to ticks that many requests share.
    block_tokens : int
        Tokens of a prompt block, of which a column `BLOCK_IDS` names all; 0 if there is none.
    """

    name: str
    summary: str
    marks: tuple[str, ...]
    arrivals: tuple[tuple[str, float], ...]
    prompts: tuple[str, ...]
    outputs: tuple[str, ...]
    has_ticks: bool = False
    block_tokens: int = 0


FORMATS = (
    TraceFormat(
        name="azure",
        summary="Azure LLM inference traces 2023 and 2024 (CSV)",
        marks=("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        arrivals=(("TIMESTAMP", 1.0),),
        prompts=("ContextTokens",),
        outputs=("GeneratedTokens",),
    ),
    TraceFormat(
        name="burstgpt",
        summary="BurstGPT, releases with and without sessions (CSV)",
        marks=("Timestamp", "Request tokens", "Response tokens"),
        arrivals=(("Timestamp", 1.0),),
        prompts=("Request tokens",),
        outputs=("Response tokens",),
    ),
    TraceFormat(
        name="bailian",
        summary="Qwen-Bailian usage traces, seconds (JSONL)",
        marks=("chat_id", "timestamp", "input_length", "output_length"),
        arrivals=(("timestamp", 1.0),),
        prompts=("input_length",),
        outputs=("output_length",),
    ),
    TraceFormat(
        name="mooncake",
        summary="Mooncake, milliseconds in ticks of 3 s (JSONL)",
        marks=("timestamp", "input_length", "output_length", "hash_ids"),
        arrivals=(("timestamp", 1e-3),),
        prompts=("input_length",),
        outputs=("output_length",),
        has_ticks=True,
        block_tokens=512,
    ),
    TraceFormat(
        name="generic",
        summary="any CSV, JSONL or Parquet with the usual column names",
        marks=(),
        arrivals=(
            ("arrival_s", 1.0),
            ("arrival_ms", 1e-3),
            ("timestamp_s", 1.0),
            ("timestamp_ms", 1e-3),
            ("arrival_time", 1.0),
            ("arrived_at", 1.0),
            ("arrival", 1.0),
            ("timestamp", 1.0),
            ("time_s", 1.0),
            ("time", 1.0),
        ),
        prompts=(
            "prompt_tokens",
            "input_tokens",
            "input_length",
            "prompt_length",
            "input_len",
            "prompt_len",
            "context_tokens",
            "request_tokens",
            "num_prefill_tokens",
        ),
        outputs=(
            "output_tokens",
            "completion_tokens",
            "output_length",
            "generated_tokens",
            "response_tokens",
            "output_len",
            "num_decode_tokens",
        ),
    ),
)
# Columns that any format may have.
CLIENTS = ("client", "client_id", "tenant", "tenant_id")
OUTPUT_LIMITS = ("max_tokens", "max_output_tokens", "max_new_tokens")
PROMPT_HASHES = ("prompt_hash", "prompt_id")
CACHED = ("cached_tokens",)
REQUEST_IDS = ("request_id", "id")
# Columns that say what is cached, in formats with `TraceFormat.block_tokens`.
BLOCK_IDS = ("hash_ids",)
