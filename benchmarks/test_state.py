"""Packing and stacking states, beside NumPy or CuPy copying as many bytes."""

import numpy as np
import pytest

from benchmarks.machine import devices
from benchmarks.peers.fusedlstm_peer import backend_of, synchronizer
from fusedlstm import LSTMCell, LSTMState, LSTMWeights, pack_state, stack_states, unpack_state, unstack_states

SIZES = [(1024, 128, 1), (32, 640, 2)]


def pack(xp, states):
    del xp
    return pack_state(states, order="ch")


def bare_pack(xp, states):
    return xp.concatenate([part for state in states for part in (state.c, state.h)], axis=1)


def stack(xp, states):
    del xp
    return stack_states(states)


def bare_stack(xp, states):
    return LSTMState(h=xp.stack([state.h for state in states]), c=xp.stack([state.c for state in states]))


def pack_and_unpack(xp, states):
    return unpack_state(pack(xp, states), [state.c.shape[1] for state in states], order="ch")


def stack_and_unstack(xp, states):
    stacked = stack(xp, states)
    return unstack_states(h=stacked.h, c=stacked.c)


WORK = {
    "pack_state": (pack, "pack"),
    "concatenate": (bare_pack, "pack"),
    "stack_states": (stack, "stack"),
    "stack": (bare_stack, "stack"),
    "pack_state, unpack_state": (pack_and_unpack, "pack and unpack"),
    "stack_states, unstack_states": (stack_and_unstack, "stack and unstack"),
}


def pytest_generate_tests(metafunc):
    metafunc.parametrize("device", devices(metafunc.config.getoption("device")))


def arrays(result):
    """Return all arrays of a result, on the host."""
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in arrays(part)]
    if isinstance(result, LSTMState):
        result = result.to_numpy()
        return [result.h, result.c]
    return [LSTMState(h=result, c=result).to_numpy().h]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "B{}-N{}-L{}".format(*size))
@pytest.mark.parametrize("name", WORK, ids=lambda name: name.replace(", ", "+"))
def test_state(benchmark, name, size, device, threads):
    B, N, layers = size
    work, what = WORK[name]
    benchmark.group = f"states, {what}, float32: B = {B}, N = {N}, layers = {layers}"
    ours = "_" in name
    benchmark.extra_info.update(kind="state", case=what, B=B, N=N, layers=layers, dtype="float32", peer=name, ours=ours)
    benchmark.extra_info.update(threads=threads, device=device)
    cell = LSTMCell(LSTMWeights.random(1, N, seed=0), backend=backend_of(device))
    host = np.random.default_rng(0).normal(size=(layers, 2, B, N)).astype(np.float32)
    states = tuple(LSTMState(h=cell.asarray(h), c=cell.asarray(c)) for h, c in host)
    synchronize = synchronizer(cell)

    def run():
        result = work(cell.xp, states)
        synchronize()
        return result

    wanted = {
        "pack": [np.concatenate([part for h, c in host for part in (c, h)], axis=1)],
        "stack": [host[:, 0], host[:, 1]],
    }.get(what, host.reshape(-1, B, N))
    for got, exact in zip(arrays(benchmark(run)), wanted, strict=True):
        np.testing.assert_array_equal(got, exact)
