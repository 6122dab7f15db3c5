"""Hints about states."""

import numpy as np

from fusedlstm import LSTMState, convert, pack_state, stack_states, unpack_state, unstack_states

from support.hints.case import B, Case, N, cell, lstm, pairs, state, x, xs

CASES = {
    "positional state": Case(lambda: LSTMState(1, 2), lambda: LSTMState(h=x(), c=x())),
    "assigned state": Case(lambda: setattr(state(), "h", 1), lambda: LSTMState(h=state().h, c=state().c)),
    "unpacked state": Case(lambda: [*cell()(x(), state())], lambda: (cell()(x(), state()).h, cell()(x(), state()).c)),
    "indexed state": Case(lambda: state()[0], lambda: (state().h, state().c)),
    "array of a state": Case(lambda: np.asarray(state()), lambda: pack_state(state(), order="ch")),
    "no state": Case(lambda: cell()(x(), None), lambda: cell()(x(), cell().zero_state(B))),
    "no states": Case(lambda: lstm().step(x(), None), lambda: lstm().step(x(), lstm().zero_state(B))),
    "pair as a state": Case(lambda: cell()(x(), (state().h, state().c)), lambda: cell()(x(), state())),
    "packed array as a state": Case(
        lambda: cell()(x(), np.zeros((B, 2 * N), "f")),
        lambda: cell()(x(), unpack_state(np.zeros((B, 2 * N), "f"), N, order="ch")),
    ),
    "a tuple with one state": Case(lambda: cell()(x(), (state(),)), lambda: cell()(x(), (state(),)[0])),
    "states for a cell": Case(lambda: cell()(x(), (state(), state())), lambda: cell()(x(), (state(), state())[0])),
    "state for an lstm": Case(lambda: lstm()(xs(), state()), lambda: lstm()(xs(), (state(),))),
    "state for layers": Case(
        lambda: lstm(2)(xs(), stack_states(pairs())),
        lambda: lstm(2)(xs(), unstack_states(h=stack_states(pairs()).h, c=stack_states(pairs()).c)),
    ),
    "pytorch's pair": Case(
        lambda: lstm(2)(xs(), (np.zeros((2, B, N), "f"), np.zeros((2, B, N), "f"))),
        lambda: lstm(2)(xs(), unstack_states(h=np.zeros((2, B, N), "f"), c=np.zeros((2, B, N), "f"))),
    ),
    "stacked one": Case(lambda: stack_states(state()), lambda: stack_states([state()])),
    "a packed state of layers": Case(
        lambda: unpack_state(np.zeros((B, 4 * N)), N, order="ch"),
        lambda: unpack_state(np.zeros((B, 4 * N)), [N, N], order="ch"),
    ),
    "a packed state that is too wide": Case(
        lambda: unpack_state(np.zeros((B, 2 * N + 1)), N, order="ch"),
        lambda: unpack_state(np.zeros((B, 2 * N + 1)), N, order="ch", proj_size=N + 1),
    ),
    "a vector as a state": Case(
        lambda: cell()(x()[:1], LSTMState(h=state().h[0], c=state().c[0])),
        lambda: cell()(x()[:1], LSTMState(h=state().h[0][None], c=state().c[0][None])),
    ),
    "one row of a state": Case(
        lambda: cell()(x(), cell().zero_state(1)),
        lambda: cell()(
            x(), LSTMState(h=cell().zero_state(1).h.repeat(B, axis=0), c=cell().zero_state(1).c.repeat(B, axis=0))
        ),
    ),
    "a packed array as h": Case(
        lambda: cell()(x(), LSTMState(h=np.zeros((B, 2 * N), "f"), c=state().c)),
        lambda: cell()(x(), unpack_state(np.zeros((B, 2 * N), "f"), N, order="hc")),
    ),
    "layers of different sizes": Case(
        lambda: stack_states([state(), LSTMState(h=np.zeros((B, 7), "f"), c=np.zeros((B, 7), "f"))]),
        lambda: pack_state([state(), LSTMState(h=np.zeros((B, 7), "f"), c=np.zeros((B, 7), "f"))], order="ch"),
    ),
    "several states in one array": Case(
        lambda: pack_state([state(), state()], order="hc", axis=0), lambda: stack_states([state(), state()])
    ),
    "dtypes of a packed state": Case(
        lambda: convert.state_from_flax((np.zeros((B, N), "d"), np.zeros((B, N), "f"))),
        lambda: convert.state_from_flax((np.zeros((B, N), "d"), np.zeros((B, N), "f")), dtype="float32"),
    ),
    "vectors in a pair": Case(
        lambda: convert.state_from_flax((np.zeros(N, "f"), np.zeros(N, "f"))),
        lambda: convert.state_from_flax((np.zeros(N, "f")[None], np.zeros(N, "f")[None])),
    ),
    "nested stacks": Case(
        lambda: convert.state_from_flax((((x(), x()), (x(), x())), ((x(), x()), (x(), x())))),
        lambda: [convert.state_from_flax(one) for one in (((x(), x()), (x(), x())), ((x(), x()), (x(), x())))],
    ),
    "an array of a pair": Case(lambda: convert.state_from_torch([x(), state()]), lambda: cell()(x(), state())),
    "an output beside a state": Case(
        lambda: convert.state_from_flax((state().h, (state().c, state().h))),
        lambda: convert.state_from_flax((state().c, state().h)),
    ),
    "three in a pair": Case(
        lambda: convert.state_from_flax((state().c, state().h, state().h)),
        lambda: convert.state_from_flax(((state().c, state().h), (state().c, state().h))),
    ),
    "sizes with a pair": Case(
        lambda: convert.state_from_tf1((state().c, state().h), hidden_size=N),
        lambda: convert.state_from_tf1(pack_state(state(), order="ch"), hidden_size=N),
    ),
    "keras's state with its output": Case(
        lambda: convert.state_from_keras([x()[:, :1], state().h, state().c]),
        lambda: convert.state_from_keras([x()[:, :1], state().h, state().c][1:]),
    ),
    "our state": Case(lambda: convert.state_from_flax(state()), lambda: cell()(x(), state())),
}
