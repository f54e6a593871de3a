"""A plan in sentences."""

from __future__ import annotations

from balanceroute.afd.answer import Interval, Plan

STAGE_NAMES = {"attention": "attention", "ffn": "FFN", "network": "the network"}
TRIP_TOLERANCE = 1.005  # a trip longer than the longest stage by less makes no difference


def judge(plan: Plan) -> tuple[str, ...]:
    """Say what r* is, how sure that is, what binds there, and what limits it."""
    sentences = [_answer(plan), _binding(plan), _worth(plan)]
    sentences += [_microbatches(plan)] if _trip_binds(plan) else []
    sentences += [_limit(plan)] if plan.tpot_target_s is not None else []
    sentences += [_memory(plan)] if plan.max_slots_by_memory is not None else []
    sentences += [_schedule(plan)] if plan.schedule is not None else []
    return tuple(sentences)


def show(interval: Interval) -> str:
    """Write an interval of whole numbers."""
    if interval.low == interval.high:
        return f"{interval.low}"
    return f"{interval.low} to {interval.high}"


def _answer(plan: Plan) -> str:
    devices = plan.profile.ffn.num_devices
    whose = "One FFN worker" if plan.num_ffn_workers == 1 else f"{plan.num_ffn_workers} FFN workers"
    on = "" if devices == 1 else f" ({plan.num_ffn_workers * devices} devices)"
    sure = show(plan.r_interval)
    spread = (
        "given the errors of the trace and the profile it does not move"
        if plan.r_interval.low == plan.r_interval.high
        else f"between {sure.replace(' to ', ' and ')}, given the errors of trace and profile"
    )
    return f"{whose}{on} should serve r = {plan.r_star} attention workers; {spread}."


def _binding(plan: Plan) -> str:
    stages = plan.stages
    barrier = stages.attention_max_s / stages.attention_mean_s - 1
    return (
        f"At r = {plan.r_star} {STAGE_NAMES[plan.regime]} takes longest, by "
        f"{stages.slack_ratio:.1%}: attention {_ms(stages.attention_max_s)} (of which the barrier "
        f"{barrier:.1%} of the mean), FFN {_ms(stages.ffn_s)}, network {_ms(stages.network_s)}."
    )


def _worth(plan: Plan) -> str:
    best, flat = plan.best, plan.r_flat
    cost = (
        ""
        if best.cost_per_million is None
        else f", a million tokens for {best.cost_per_million:.3g}"
    )
    return (
        f"It gives {best.tokens_per_s_per_device:,.0f} output tokens/s per device{cost}, at a TPOT "
        f"of {_ms(best.tpot_s)}; r = {show(flat)} is within 1 % of that."
    )


def _trip_binds(plan: Plan) -> bool:
    stages = plan.stages
    longest = max(stages.attention_max_s, stages.ffn_s, stages.network_s)
    return stages.trip_s > TRIP_TOLERANCE * longest


def _microbatches(plan: Plan) -> str:
    return (
        f"A cycle through all stages takes {_ms(plan.stages.trip_s)} per microbatch with "
        f"{plan.num_microbatches} in flight, more than the longest stage: more microbatches would "
        "keep it busier."
    )


def _limit(plan: Plan) -> str:
    return (
        f"A TPOT of {_ms(plan.tpot_target_s or 0.0)} allows up to r = {plan.max_r_within_tpot}, "
        f"and at r = {plan.r_star} up to B = {plan.max_slots_within_tpot}."
    )


def _memory(plan: Plan) -> str:
    return (
        f"{plan.num_microbatches} × {plan.num_slots} requests hold up to "
        f"{plan.kv_tokens_needed:,.0f} KV tokens (999 times in 1,000); B up to "
        f"{plan.max_slots_by_memory} fits an attention worker."
    )


def _schedule(plan: Plan) -> str:
    schedule = plan.schedule
    assert schedule is not None
    gain = 1 - schedule.scheduled_cost / schedule.fixed_cost
    free = 1 - schedule.free_cost / schedule.fixed_cost
    resizes = f"{schedule.num_resizes} change{'' if schedule.num_resizes == 1 else 's'} of r"
    return (
        f"Over {len(schedule.windows)} windows of {schedule.window_s:g} s, {resizes} save "
        f"{gain:.2%} against r = {schedule.r_fixed} throughout ({free:.2%} if changing cost "
        "nothing)."
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.4g} ms"
