"""The result document: its shape, its order, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from balanceroute.errors import ConfigError
from balanceroute.report import SCHEMA, from_json, to_json
from tests.report.results import make_metrics, make_result

RESULT = make_result(("vllm", make_metrics()), ("br_0", make_metrics(efficiency=0.99)))


def test_a_result_survives_the_round_trip() -> None:
    """What is read back equals what was written, and is written the same again."""
    assert from_json(to_json(RESULT)) == RESULT
    assert to_json(from_json(to_json(RESULT))) == to_json(RESULT)


def test_the_document_has_the_documented_names_in_order() -> None:
    """Names and order are part of version 1."""
    document = json.loads(to_json(RESULT))
    assert list(document) == ["schema", "workload", "group", "runs", "measured"]
    assert document["schema"] == SCHEMA
    assert " ".join(document["workload"]) == (
        "name num_requests num_source_requests sampling fingerprint prompt_tokens_mean "
        "output_tokens_mean notes"
    )
    assert " ".join(document["group"]) == (
        "ranks slots kv_tokens step_time arrivals rate_scale pool binding start staleness_s "
        "delivery_s delivery_jitter_s prefill_budget_tokens prefill_s_per_token prefill_shared "
        "mixed_step_s prefix_cache prefill_gate warmup_steps rank_speeds barrier groups"
    )
    assert list(document["group"]["step_time"]) == [
        "name",
        "constant_s",
        "seconds_per_token",
        "kappa0_tokens",
    ]
    assert list(document["runs"][0]) == ["policy", "seed", "binding", "metrics", "window_s"]


def test_the_document_is_indented_and_ends_in_one_line_feed() -> None:
    """So that two results can be compared line by line."""
    text = to_json(RESULT).decode()
    assert text.startswith('{\n  "schema": "balanceroute.simulation.v1",\n')
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")


def test_unknown_fields_are_skipped() -> None:
    """A later release may add fields to version 1."""
    document = json.loads(to_json(RESULT))
    document["runs"][0]["metrics"]["invented_later"] = 1
    assert from_json(json.dumps(document)) == RESULT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"schema": "balanceroute.simulation.v2"}',
        to_json(RESULT)[:-20],
        to_json(RESULT).replace(b'"saturated"', b'"sometimes"'),
    ],
    ids=["empty", "binary", "list", "version", "truncated", "value"],
)
def test_other_documents_are_refused_in_one_line(data: bytes) -> None:
    """The message names the schema and what to give instead."""
    with pytest.raises(ConfigError, match=rf"^not a result of schema {SCHEMA}: .*--json"):
        from_json(data)


def test_the_documentation_has_every_name_and_a_valid_example() -> None:
    """`docs/metrics.md` documents the schema in full."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    example = page.split("```json\n")[1].split("```")[0]
    assert to_json(from_json(example)).decode() == example
    prose = page.split("```json\n")[0]
    document = json.loads(example)
    metrics = document["runs"][0]["metrics"]
    names = [*document, *document["workload"], *document["group"], *document["runs"][0], *metrics]
    assert [name for name in names if name not in prose] == []
