"""The prose of docs/reproduction.md."""

from __future__ import annotations

INTRO = """# Published figures, and ours

Made by `make reproduce`, with `AUTHORS=PATH` for the parts that need a checkout of the public
simulator of [B] and `DYNAMO=PYTHON` for the one that needs a Python with `ai-dynamo`; every figure
of ours on this page comes from that command. Interrupted, it goes on with the run that it was at;
runs are kept until the package has another version, or `ANEW=1` is given. [A]:
BalanceRoute, [arXiv 2605.06113](https://arxiv.org/abs/2605.06113); [B]: BF-IO,
[arXiv 2601.17855](https://arxiv.org/abs/2601.17855). Ours are means over seeds 0, 1 and 2 (0 to 4
in the first section) with half of their 95 % interval by Student's t, and single runs where none
is given. All of it is simulation: no engine was measured here.
"""

BURSTGPT_TEXT = """## BurstGPT, 16 ranks of 72 slots [B]

100,000 requests drawn with replacement from 8,000 BurstGPT lengths, pool of 4 G = 64 as in the
public code, slots empty at first, all steps counted, step time `bf-io`. Imbalance and idle time
before the refill, where [B] measures.
"""

BURSTGPT_REASONS = """
*Inside*: [B]'s figure lies in the 95 % interval of our mean. Why they differ. The draws: the
paper's seed and its sample of BurstGPT are not published, and a few requests hold most of the
tokens, so that draws differ by a tenth. The rule: the `br_h` row with horizon 20 has true lengths,
H = 20, γ = 0.86 and β = 43 as the public code has, but the two stages of [br_h](policies/br_h.md).
Lengths: only that row knows them. Energy: [B] takes it from the loads before the refill, we from
the work of the step; on one draw both come to the same, as the next table shows.
"""

FULL_SIZE_TEXT = """The authors' own code on our draw of these 100,000 requests (seed 0), beside
ours: what lies between that and [B]'s table is the draw, not the simulator. In the last three rows
placements that know no lengths stand beside their BF-IO with H = 20, which knows them all; with
`patience=1e9,age_weight=0` `br_auto` bounds no waits, as theirs does not.
"""

AUTHORS_TEXT = """## The same requests through the authors' simulator and through ours [B]

20,000 BurstGPT requests (seed 0), 16 ranks of 72 slots, 128 waiting, the same constants. The
authors' code was run from a checkout (commit 6ae705d of
github.com/Echoscd/Load-Balancing-Release) and is not part of this project. Theirs / ours, and how
far ours is off.
"""

AUTHORS_REASONS = """
Reasons for what differs. *The window*: we stop counting when the pool can no longer be kept full,
they at the last assignment, some steps later; that is the half percent on rules that are the
same. *Round robin*: theirs begins at rank 0 at every plan, ours goes on where it was. *BF-IO*:
theirs is a two-stage greedy rule, whose second stage picks the next rank by its load now and ahead
and solves a subset sum over up to 1,024 requests, where [br_0](policies/br_0.md) picks by free
slots and looks at r_max = 4. *Lengths*: their H = 20 is told every output length; of ours only
`oracle` is, while `br_0` and `br_auto` see prompts alone; `br_auto` bounds waits besides, unless
told otherwise.
*Time of a run*: on two cores with other work beside; only its order of magnitude tells.
"""

DYNAMO_TEXT = """## The same requests through Dynamo's mocker and through ours

Ranks without a barrier that prefill too: 4,000 requests of azure-2023-conv (seed 0) as Poisson
arrivals, 8 ranks of 48 slots, 8,192 tokens a step, `paper` step times and 20 µs per prompt token.
They went as a Mooncake trace, in which no two prompts share a block, through Dynamo {version}'s
offline replay (`dynamo.replay.run_trace_replay`; its vLLM scheduler, blocks of 16 tokens, prefix
cache off, and a table of step times in which ours stand), and through the simulator with
`--no-barrier`. Theirs / ours, and how far ours is off; times in ms. *Same rank*: requests that went
to the same one. *Apart*: how far apart the two put a request's first token, and its last one, in
the median.

"""

DYNAMO_REASONS = """
Reasons for what differs. *Prefill alone*: a step in which a rank only prefills costs the mocker no
C, ours does. That shifts the steps after it, by parts of a step; it is all there is between the
rows with round robin and room for all tokens. *Blocks*: where KV tokens are scarce it counts
blocks, ours tokens, and a few preemptions more or less make the tail. This row found a fault: our
ranks admitted requests whose first chunk fitted, and came to 206 preemptions and 587 ms to the
first token; now they ask that the whole prompt fit, as vLLM does by default. *KV router*: it weighs
the blocks of prompts in flight, those without an output yet doubly, and breaks ties by chance; with
the same rule ours comes to the same figures, though single requests go elsewhere. `least_tokens`
counts outputs too, and prompts once, so it sends more requests to ranks that are busy with prompts.
"""

GROWTH_TEXT = """## Growth of the improvement with √(B·log G) [B]

Imbalance of `fcfs` over that of the policy, after admission; BurstGPT lengths, saturated pool of
4 G, stationary start, one seed. [B] derives an improvement that grows with √(B·log G).
"""

PRODUCTION_TEXT = """## Production lengths, 8 ranks of 72 slots [A]

Preset `br-production`, from the published means and deviations. [A] publishes no request rate, so
the same policies are run in four settings: a saturated pool with late binding for all; the same
backlog with each policy's own binding, so that rules which only choose ranks bind on arrival and
queue inside the ranks; and Poisson arrivals at two loads, parts of the requests per second that
`br_0` serves when saturated. Imbalance after admission, in brackets relative to `random`. [A]'s
JSQ counts requests, as `least_requests` does.
"""

PRODUCTION_REASONS = """
Why they differ. The rate: with late binding for all, a rule that only chooses ranks decides next
to nothing, and with free slots everywhere BR-0 has no requests to choose from, so neither can be
what [A] compares; a backlog with each policy's own binding comes nearest. The hardware: [A]
measures on NPUs, we compute `paper` step times. The horizon:
here BR-H with the published H = 80 and γ = 0.86 is no better than BR-0, also when it knows every
length, where [A] reports half of BR-0's imbalance; [br_h](policies/br_h.md) has more on that.
Exact match needs prompts that come again, which a draw from two marginals has not.
"""

LONGBENCH_TEXT = """## LongBench lengths, 256 ranks of 72 slots [B]

80,000 requests from the authors' own file of lengths, settings as in the first section. [B]
reports {low:+.0%} to {high:+.0%} of energy for BF-IO against FCFS; ours is per output token,
without knowledge of lengths.

"""

GAINS_TEXT = """
Throughput over the best of the three baselines. [A] reports {br_0:+.1%} for BR-0,
{exact_match:+.1%} for exact match, and with the oracle {oracle}. Below saturation all policies
serve what arrives, so throughput says little there.

"""

AZURE_TEXT = """## Long outputs, 8 ranks of 72 slots [A]

Preset `br-azure`, of whose distributions [A] publishes little more than the means; imbalance in
tokens.

"""

GAP_TEXT = """## Distance to the step optimum

8 ranks of 24 slots, 32 waiting, saturated, seed 0; the columns are those of [gap](gap.md).
"""

SPEED_TEXT = """## Time of a plan

Microseconds: the median of the plans of a saturated run on azure2023_conv, of three runs the least,
since other work on the machine only adds to it. A rank of 72 slots is refilled every third step
there: K, the requests placed, grows with the running ones. Python's share of a call is some 15 µs.
What a plan should cost: `br_0` sorts the W waiting requests that it looks at and places K of them,
O(W log W + K (log G + log W)); `br_h` adds what it looks at of the running requests and of the
waiting ones, at no more than nine horizons whatever H is, O(9 (K + W)); `br_auto` weighs every
waiting request for every slot, O(K W), and a few per cent of the running ones.

"""

FIT_TEXT = r"""
Fit of $t = t_0\,G^a\,\mathrm{waiting}^b\,\mathrm{running}^c\,(1 + H)^d$ by least squares of the
logarithms. Exponents below those of the formulas mean that the constant share still rules.

"""
