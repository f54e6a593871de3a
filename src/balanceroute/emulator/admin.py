"""The emulated server's own endpoints: faults, state, and the records of its steps."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web

from balanceroute.emulator.errors import ApiError
from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.records import COLUMNS

MAX_RECORDS = 100_000  # in one answer


def add_admin_routes(app: web.Application, group: EmulatedGroup) -> None:
    """Add ``/emulator/…`` for a group to an application."""

    async def show_faults(_: web.Request) -> web.Response:
        return _json(group.faults.now)

    async def change_faults(request: web.Request) -> web.Response:
        group.faults.change(await request.read())
        group.apply_faults()
        return _json(group.faults.now)

    async def clear_faults(_: web.Request) -> web.Response:
        group.faults.clear()
        group.apply_faults()
        return _json(group.faults.now)

    async def show_state(_: web.Request) -> web.Response:
        return _json(group_state(group))

    async def show_records(request: web.Request) -> web.Response:
        since, limit = _number(request, "since", 0), _number(request, "limit", MAX_RECORDS)
        records = group_records(group, since, min(limit, MAX_RECORDS))
        form = request.query.get("format", "json")
        if form == "msgpack":
            packed = msgspec.msgpack.encode(records)
            return web.Response(body=packed, content_type="application/msgpack")
        if form != "json":
            raise ApiError.of_status(400, f"format must be json or msgpack, got {form!r}")
        return _json(records)

    app.add_routes(
        [
            web.get("/emulator/faults", show_faults),
            web.post("/emulator/faults", change_faults),
            web.delete("/emulator/faults", clear_faults),
            web.get("/emulator/state", show_state),
            web.get("/emulator/records", show_records),
        ]
    )


def group_state(group: EmulatedGroup) -> dict[str, Any]:
    """Return what a group does at this moment, and its sums since the start.

    Efficiency since the start is ``1 - (max_work_s - mean_work_s) / step_s`` of its totals.
    """
    engine, clockwork = group.engine, group.clockwork
    return {
        "group": group.index,
        "role": group.role,
        "urls": group.urls,
        "num_ranks": len(engine.ranks),
        "num_slots": engine.config.num_slots,
        "num_blocks": engine.config.num_blocks,
        "block_size": engine.config.block_size,
        "costs": asdict(engine.config.costs),
        "speedup": group.config.speedup,
        "emulated_s": clockwork.emulated_s,
        "lag_s": clockwork.lag_s,
        "max_lag_s": clockwork.max_lag_s,
        "slipped_s": clockwork.slipped_s,
        "num_open": group.num_open,
        "totals": asdict(engine.totals),
        "ranks": [
            {
                "rank": i,
                "num_running": rank.num_running,
                "num_waiting": rank.num_waiting,
                "resident_tokens": rank.load_tokens,
                "used_blocks": rank.used_blocks,
                "generated_tokens": rank.total_generated_tokens,
                "prompt_tokens": rank.total_prompt_tokens,
                "num_preemptions": rank.num_preemptions,
                "num_steps": engine.totals.num_steps,
            }
            for i, rank in enumerate(engine.ranks)
        ],
    }


def group_records(group: EmulatedGroup, since: int, limit: int) -> dict[str, Any]:
    """Return the steps from `since` on, by the columns of `balanceroute.types.StepRecords`.

    ``first_step`` is the step of the first row, later than `since` if older ones were dropped; a
    step under way is left out.
    """
    num_steps = group.engine.num_steps_ended
    first_step, records = group.engine.log.since(since, limit)
    num_rows = max(0, min(len(records.start_s), num_steps - first_step))
    columns = {name: getattr(records, name)[:num_rows].tolist() for name in COLUMNS}
    return {
        "num_ranks": len(group.engine.ranks),
        "num_steps": num_steps,
        "first_step": first_step,
        "columns": columns,
    }


def _json(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()):
        raise ApiError.of_status(400, f"{name} must be a number of at least 0, got {text!r}")
    return int(text)
