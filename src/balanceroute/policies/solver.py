"""HiGHS, which the extra ``solver`` installs: imported here only."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, NamedTuple

import numpy as np

from balanceroute.errors import MissingExtraError
from balanceroute.kernels.arrays import Float64Array
from balanceroute.policies.step_program import LinearProgram

Status = Literal["optimal", "limit", "failed"]

# Loads are whole tokens, so two plans differ by a token or not at all.
GAP_TOKENS = 0.99


class Answer(NamedTuple):
    """What became of a program."""

    status: Status
    columns: Float64Array | None  # shape (C,): the best found, None if there is none
    num_nodes: int


def is_installed() -> bool:
    """Return whether the extra is there."""
    return importlib.util.find_spec("highspy") is not None


def require() -> None:
    """Raise `MissingExtraError` unless the extra is there."""
    if not is_installed():
        raise MissingExtraError(
            "the policy 'bf_io' needs HiGHS to solve its programs; install it with: "
            "pip install 'balanceroute[solver]'"
        )


def solve(
    program: LinearProgram, start: Float64Array, *, time_limit_s: float, max_nodes: int
) -> Answer:
    """Minimise a mixed-integer linear program to within a token.

    Parameters
    ----------
    program : LinearProgram
        At least one column.
    start : float64 array, shape (C,)
        Columns to start from; a feasible solution.
    time_limit_s : float
        Wall time after which the best so far is returned.
    max_nodes : int
        Nodes of the search tree after which the same happens, whatever the machine.

    Returns
    -------
    Answer
        ``"optimal"``: no solution is better by a token. ``"limit"``: one of the limits came first.
        ``"failed"``: the solver gave up on the numbers.

    Raises
    ------
    MissingExtraError
        If highspy is not installed.
    """
    require()
    import highspy

    solver: Any = highspy.Highs()
    options = {
        "output_flag": False,
        "threads": 1,
        "random_seed": 0,
        "time_limit": float(time_limit_s),
        "mip_max_nodes": max_nodes,
        "mip_rel_gap": 0.0,
        "mip_abs_gap": GAP_TOKENS * program.unit,
    }
    for name, value in options.items():
        solver.setOptionValue(name, value)
    if solver.passModel(_model(highspy, program)) == highspy.HighsStatus.kError:
        return Answer("failed", None, 0)
    warm: Any = highspy.HighsSolution()
    warm.col_value = start.tolist()
    solver.setSolution(warm)
    solver.run()
    return _answer(highspy, solver)


def _answer(highspy: Any, solver: Any) -> Answer:
    info, outcome = solver.getInfo(), solver.getModelStatus()
    columns = None
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        columns = np.array(solver.getSolution().col_value)
    states = highspy.HighsModelStatus
    limits = (states.kTimeLimit, states.kIterationLimit, states.kSolutionLimit)
    status: Status = "failed"
    if outcome == states.kOptimal and columns is not None:
        status = "optimal"
    elif outcome in limits:
        status = "limit"
    return Answer(status, columns, int(info.mip_node_count))


def _model(highspy: Any, program: LinearProgram) -> Any:
    num_columns = len(program.cost)
    model: Any = highspy.HighsLp()
    model.num_col_, model.num_row_ = num_columns, len(program.row_lower)
    model.col_cost_, model.col_lower_, model.col_upper_ = program.cost, program.lower, program.upper
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = program.starts.astype(np.int32)
    model.a_matrix_.index_ = program.indices.astype(np.int32)
    model.a_matrix_.value_ = program.values
    kinds = highspy.HighsVarType
    num_integer = num_columns - program.num_continuous
    continuous, integer = [kinds.kContinuous], [kinds.kInteger]
    model.integrality_ = program.num_continuous * continuous + num_integer * integer
    return model
