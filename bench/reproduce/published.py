"""Figures as the papers print them; nothing here is measured."""

from __future__ import annotations

#: [B], arXiv 2601.17855: BurstGPT, 100,000 requests, G = 16, B = 72, measured before refill.
#: Imbalance in tokens, idle ratio, output tokens/s, energy in kJ.
BURSTGPT = {
    "FCFS": (279_096.0, 0.185, 79_975.0, 396.0),
    "BF-IO, H = 20, true lengths": (16_547.0, 0.015, 91_276.0, 383.0),
}

#: [B]: energy of BF-IO relative to FCFS, G = 256, LongBench-like lengths.
LONGBENCH_ENERGY = (-0.28, -0.25)

#: [A], arXiv 2605.06113: mean imbalance in tokens, production lengths, G = 8, B = 72.
PRODUCTION = {
    "random": 438_225.0,
    "round robin": 254_798.0,
    "JSQ": 215_110.0,
    "BR-0": 51_927.0,
    "BR-H, survival": 40_757.0,
    "BR-H, exact match": 36_277.0,
    "BR-H, oracle": 23_577.0,
}

#: [A]: throughput over that of the best baseline.
PRODUCTION_THROUGHPUT = {"BR-0": 0.118, "BR-H, exact match": 0.154}
PRODUCTION_ORACLE = {4: 0.134, 8: 0.215, 16: 0.345}
