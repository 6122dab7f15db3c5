"""Random stacks with every option, and arguments of their sequences, in float64: for comparing gradients.

A hypothesis test takes `@given(case=CASES)`. Values stay moderate, as unbounded gates are clipped.
"""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from fusedlstm import LSTMState, LSTMWeights, StackedWeights

from support.cells import FUNCTIONS

I = 3
BOUNDED = ("sigmoid", "tanh", "softsign", "hard_sigmoid", "scaled_tanh")
DIRECTIONS = (
    *(["forward"], ["forward", "forward"], ["backward"], ["both"], ["both", "both"]),
    *(["forward", "backward"], ["both", "forward"], ["backward", "both", "backward"]),
)


@dataclass(frozen=True)
class Case:
    """Arguments of an LSTM's call.

    Attributes:
        weights: a StackedWeights.
        xs: (T, B, I).
        states: a tuple with an LSTMState for each layer and direction.
        options: the keyword arguments of the call.
    """

    weights: StackedWeights
    xs: np.ndarray
    states: tuple[LSTMState, ...]
    options: dict


def random_options(rng, *, zoneout):
    """Return options of a cell without projection. Any function may take any role."""
    if rng.random() < 0.3:
        return {}
    gate, activation, output = (FUNCTIONS[k] for k in rng.integers(len(FUNCTIONS), size=3))
    is_bounded = (gate if isinstance(gate, str) else gate[0]) in BOUNDED
    return {
        "gate_activation": gate,
        "activation": activation,
        "output_activation": output if rng.random() < 0.5 else None,
        "gate_clip": 0.8 if not is_bounded or rng.random() < 0.3 else None,
        "cell_clip": (None, None, 0.5, 0.0)[rng.integers(4)],
        "coupled_gate": (None, None, "input", "forget")[rng.integers(4)],
        "zoneout_c": 0.3 if zoneout and rng.random() < 0.5 else 0.0,
        "zoneout_h": 0.2 if zoneout and rng.random() < 0.5 else 0.0,
    }


def random_stack(rng, directions, *, residual=False, zoneout=False):
    """Return layers of different sizes and options. A residual stack's layers are as wide as its inputs."""
    width, cells = I, []
    for direction in directions:
        N, P = (int(size) for size in rng.integers(1, 6, size=2))
        ways = 2 if direction == "both" else 1
        for _ in range(ways):
            proj = P if rng.random() < 0.5 else None
            if residual and ways == 1:
                N, proj = (width, None) if rng.random() < 0.5 else (N, width)
            options = random_options(rng, zoneout=zoneout)
            if proj and rng.random() < 0.4:
                options["proj_clip"] = 0.2
            bias, peephole = (bool(flag) for flag in rng.integers(2, size=2))
            seed = int(rng.integers(1 << 30))
            cells.append(
                LSTMWeights.random(
                    width, N, seed=seed, proj_size=proj, bias=bias, peephole=peephole, dtype="float64", **options
                )
            )
        width = sum(cell.output_size for cell in cells[-ways:])
    is_residual = [residual and direction != "both" for direction in directions]
    return StackedWeights(cells, directions=directions, residual=is_residual)


def random_states(rng, weights, B):
    """Return a state for each layer and direction."""
    sizes = [(cell.output_size, cell.hidden_size) for cell in weights.layers]
    return tuple(LSTMState(h=rng.uniform(-1, 1, (B, P)), c=rng.normal(size=(B, N))) for P, N in sizes)


def random_case(seed, T, B, directions, steps, reset, rule, *, residual=False, reverse=False, zoneout=False):
    """Return a Case.

    Args:
        seed: an int.
        T: the number of steps.
        B: the number of rows.
        directions: the direction of each layer.
        steps: None, "lengths" or "mask".
        reset: None, "zero", "one row" or "rows": whether there are resets, and to what.
        rule: masked_outputs.
        residual: whether layers of one direction are residual.
        reverse: whether to read backward, if all layers are forward.
        zoneout: whether cells may have zoneout.
    """
    rng = np.random.default_rng(seed)
    weights = random_stack(rng, directions, residual=residual, zoneout=zoneout)
    options = {"masked_outputs": rule, "reverse": reverse and weights.is_causal}
    if steps == "lengths":
        options["lengths"] = rng.integers(0, T + 1, B)
    elif steps == "mask":
        options["mask"] = rng.random((T, B)) < 0.6
    if reset:
        options["is_first"] = rng.random((T, B)) < 0.3
    if reset in ("one row", "rows"):
        options["reset_to"] = random_states(rng, weights, 1 if reset == "one row" else B)
    return Case(weights, rng.normal(size=(T, B, I)), random_states(rng, weights, B), options)


def small_case(**options):
    """Return a Case of two layers, with these options of the call."""
    case = random_case(5, 6, 3, ["forward", "forward"], None, None, "zero")
    return replace(case, options=options)


ARGUMENTS = {
    "seed": st.integers(0, 1 << 30),
    "T": st.sampled_from([0, 1, 2, 5]),
    "B": st.sampled_from([0, 1, 3]),
    "directions": st.sampled_from(DIRECTIONS),
    "steps": st.sampled_from([None, "lengths", "mask"]),
    "reset": st.sampled_from([None, "zero", "one row", "rows"]),
    "rule": st.sampled_from(["zero", "last"]),
    "residual": st.booleans(),
    "reverse": st.booleans(),
}
CASES = st.builds(random_case, **ARGUMENTS)
CASES_WITH_ZONEOUT = st.builds(random_case, **ARGUMENTS, zoneout=st.just(True))
