"""Files of pools restore states bit for bit, are written all or nothing, and load only if they fit."""

import dataclasses
import json
import os
import struct
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from fusedlstm import (
    LSTM,
    LSTMCell,
    LSTMState,
    LSTMWeights,
    OtherWeightsWarning,
    StackedWeights,
    WeightsFileError,
    files,
    pool_files,
)
from fusedlstm.weights import ARRAYS

from support.cells import host
from support.places import ROOT
from support.pools import layers_of, make_pool, random_layers, state_of

I, N, P = 3, 4, 2
DTYPES = ["float64", "float32", "float16", "bfloat16"]


def owner_of(backend, dtype="float32", stacked=False, seed=0):
    layers = [LSTMWeights.random(I, N, proj_size=P, dtype=dtype, seed=seed)]
    if not stacked:
        return LSTMCell(layers[0], backend=backend)
    return LSTM(StackedWeights([*layers, LSTMWeights.random(P, 5, dtype=dtype, seed=seed)]), backend=backend)


def filled(owner, capacity=9, released=(1, 4), live=6, seed=0):
    """Return a pool with gaps among its live slots."""
    pool = make_pool(owner, capacity)
    pool.write(pool.allocate(live), state_of(owner, random_layers(owner, live, np.random.default_rng(seed))))
    pool.release(list(released))
    return pool


def contents(pool):
    slots = pool.slots
    return slots.tolist(), [(s.h.tobytes(), s.c.tobytes()) for s in layers_of(pool._cell, pool.read(slots))]


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(dtype, stacked, backend, tmp_path):
    """Load into a pool of another capacity, which loses its own slots."""
    path = tmp_path / "pool.safetensors"
    pool = filled(owner_of(backend, dtype, stacked))
    pool.save(path)
    first = path.read_bytes()
    pool.save(str(path))
    assert path.read_bytes() == first, "equal states should give equal bytes"
    for capacity in (6, 9, 1000):
        other = filled(owner_of(backend, dtype, stacked), capacity, (), 6, seed=8)
        other.load(path)
        assert contents(other) == contents(pool)
        assert other.slots.tolist() == [0, 2, 3, 5]
        assert other.allocate(2).tolist() == [1, 4], "the lowest free slots should come first"
        for layer in layers_of(other._cell, other.read([1, 4])):
            assert not layer.h.any()
            assert not layer.c.any()


def test_special_values_keep_their_bits(backend, tmp_path):
    owner = owner_of(backend, "float64")
    pool = make_pool(owner, 3)
    values = np.array([np.nan, -0.0, np.inf, 5e-324])
    pool.write(pool.allocate(1), state_of(owner, [LSTMState(h=values[None, :2], c=values[None])]))
    pool.save(tmp_path / "pool")
    other = make_pool(owner, 3)
    other.load(tmp_path / "pool")
    assert contents(other) == contents(pool)


def test_an_empty_pool(backend, tmp_path):
    pool = make_pool(owner_of(backend), 3)
    pool.save(tmp_path / "pool")
    other = filled(owner_of(backend))
    other.load(tmp_path / "pool")
    assert other.live == 0
    assert other.allocate(9).tolist() == list(range(9))


def test_a_loaded_pool_steps_on(backend, tmp_path):
    owner = owner_of(backend, stacked=True)
    pool, path = filled(owner), tmp_path / "pool"
    pool.save(path)
    x = owner.asarray(np.random.default_rng(0).normal(size=(2, I)))
    wanted = pool.step(x, [5, 2])
    other = make_pool(owner, 6)
    other.load(path)
    np.testing.assert_array_equal(host(other.step(x, [5, 2])), host(wanted))
    assert contents(other) == contents(pool)


def test_arrays_and_options_of_a_file(tmp_path):
    pool, path = filled(owner_of("numpy", "bfloat16", stacked=True)), tmp_path / "pool"
    pool.save(path)
    arrays, options = files.load(path, "StatePool")
    assert options == {
        "layers": [{"output_size": 2, "hidden_size": 4}, {"output_size": 5, "hidden_size": 5}],
        "dtype": "bfloat16",
        "weights": pool_files.fingerprint(pool._cell.weights),
    }
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "slots": ("int64", (4,)),
        "0.h": ("bfloat16", (4, 2)),
        "0.c": ("float32", (4, 4)),
        "1.h": ("bfloat16", (4, 5)),
        "1.c": ("float32", (4, 5)),
    }


# A file that doesn't fit raises, and the pool doesn't change.


def refused(pool, path, message):
    before = contents(pool)
    with pytest.raises(WeightsFileError) as caught:
        pool.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert contents(pool) == before
    free = pool.allocate(pool.capacity - pool.live)
    pool.release(free)
    assert contents(pool) == before


@pytest.mark.parametrize(
    ("dtype", "stacked", "message"),
    [
        ("float16", False, "holds states of layers (P, N) = (2, 4) in float32; this pool's are (2, 4) in float16"),
        (
            "float32",
            True,
            "holds states of layers (P, N) = (2, 4) in float32; this pool's are (2, 4), (5, 5) in float32",
        ),
    ],
)
def test_files_of_other_forms_are_refused(dtype, stacked, message, backend, tmp_path):
    path = tmp_path / "pool.safetensors"
    filled(owner_of(backend)).save(path)
    refused(filled(owner_of(backend, dtype, stacked), seed=3), path, message)


def test_a_pool_that_is_too_small_is_refused(backend, tmp_path):
    path = tmp_path / "pool.safetensors"
    filled(owner_of(backend)).save(path)
    pool = filled(owner_of(backend), 5, (), 3, seed=3)
    refused(pool, path, "holds live slots up to 5; this pool's capacity is 5")


def test_files_of_weights(backend, tmp_path):
    path = tmp_path / "weights"
    owner_of(backend).weights.save(path)
    refused(filled(owner_of(backend)), path, "holds LSTMWeights, not StatePool")
    filled(owner_of(backend)).save(path)
    with pytest.raises(WeightsFileError, match="holds StatePool, not LSTMWeights"):
        LSTMWeights.load(path)


@pytest.mark.parametrize("name", ARRAYS)
def test_integer_weights_are_refused(name, tmp_path):
    """Only pools have integer arrays."""
    weights = LSTMWeights.random(I, N, proj_size=P, peephole=True, seed=0)
    arrays = {**weights.arrays(), name: weights.arrays()[name].astype(np.int64)}
    files.save(tmp_path / "w", "LSTMWeights", arrays, weights.options())
    with pytest.raises(WeightsFileError, match="is damaged: weights can't have the dtype I64"):
        LSTMWeights.load(tmp_path / "w")


# Files with a valid checksum that no pool has written: the changed arrays, the changed options, and the message.
SLOTS = np.array([0, 2, 3, 5])
DAMAGED = {
    "slots of int32": ({"slots": SLOTS.astype("i4")}, {}, "states can't have the dtype I32"),
    "slots of floats": ({"slots": SLOTS.astype("f8")}, {}, "slots: wanted int64 (L,); got float64 (4,)"),
    "no slots": ({"slots": None}, {}, "slots: wanted int64 (L,); got none"),
    "slots of two dimensions": ({"slots": SLOTS[:, None]}, {}, "slots: wanted int64 (L,); got int64 (4, 1)"),
    "a slot twice": ({"slots": np.array([0, 2, 2, 5])}, {}, "slots: wanted sorted, distinct slots; got 2 before 2"),
    "slots in disorder": (
        {"slots": np.array([0, 3, 2, 5])},
        {},
        "slots: wanted sorted, distinct slots; got 3 before 2",
    ),
    "a negative slot": ({"slots": np.array([-1, 2, 3, 5])}, {}, "slots: wanted slots of at least 0; got -1"),
    "fewer slots": ({"slots": SLOTS[:3]}, {}, "0.c: wanted float32 (3, 4); got float32 (4, 4)"),
    "no h": ({"0.h": None}, {}, "0.h: wanted float32 (4, 2); got none"),
    "a wide c": ({"0.c": np.zeros((4, 5), "f4")}, {}, "0.c: wanted float32 (4, 4); got float32 (4, 5)"),
    "a c of float64": ({"0.c": np.zeros((4, 4))}, {}, "0.c: wanted float32 (4, 4); got float64 (4, 4)"),
    "an h of integers": ({"0.h": np.zeros((4, 2), "i8")}, {}, "0.h: wanted float32 (4, 2); got int64 (4, 2)"),
    "another array": ({"1.h": np.zeros((4, 2), "f4")}, {}, "1.h: wanted no such array; got float32 (4, 2)"),
    "no layers": ({}, {"layers": []}, "layers: wanted the sizes of each layer; got []"),
    "layers of numbers": ({}, {"layers": [2, 4]}, "layers: wanted the sizes of each layer; got [2, 4]"),
    "layers that are a number": ({}, {"layers": 3}, "layers: wanted the sizes of each layer; got 3"),
    "a size that is text": (
        {},
        {"layers": [{"output_size": 2, "hidden_size": "4"}]},
        "layers: wanted the sizes of each layer; got [{'hidden_size': '4', 'output_size': 2}]",
    ),
    "another dtype": ({}, {"dtype": "int8"}, "dtype: wanted one of float64, float32, float16, bfloat16; got int8"),
    "a dtype that is a list": ({}, {"dtype": [1]}, "dtype: wanted one of float64, float32, float16, bfloat16; got [1]"),
    "weights that are text": ({}, {"weights": "a"}, "weights: wanted the fingerprint of weights, an int; got a"),
    "another option": ({}, {"capacity": 9}, "capacity"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused(case, backend, tmp_path):
    arrays, options, message = DAMAGED[case]
    pool, path = filled(owner_of(backend)), tmp_path / "pool"
    pool.save(path)
    good, about = files.load(path, "StatePool")
    changed = {name: array for name, array in {**good, **arrays}.items() if array is not None}
    files.save(path, "StatePool", changed, {**about, **options})
    refused(filled(owner_of(backend), seed=3), path, "is damaged: ")
    refused(filled(owner_of(backend), seed=3), path, message)


def test_each_flipped_byte_and_truncation_raises(tmp_path):
    path, pool = tmp_path / "pool", filled(owner_of("numpy"))
    pool.save(path)
    content = path.read_bytes()
    other = filled(owner_of("numpy"), seed=3)
    before = contents(other)
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 0x15
        for damaged in (bytes(flipped), content[:position]):
            path.write_bytes(damaged)
            with pytest.raises(WeightsFileError):
                other.load(path)
    assert contents(other) == before


def test_newer_files(tmp_path):
    path = tmp_path / "pool"
    filled(owner_of("numpy")).save(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["fusedlstm"] = header["__metadata__"]["fusedlstm"].replace('"version": 4', '"version": 99')
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    refused(filled(owner_of("numpy"), seed=3), path, "is newer than this fusedlstm")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_pool(owner_of("numpy"), 3).load(tmp_path / "absent")


# The weights that a file's states were computed with.


def loads_quietly(owner, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_pool(owner, 9).load(path)


@pytest.mark.parametrize("stacked", [False, True])
def test_other_weights_warn(stacked, backend, tmp_path):
    """Weights that differ in one bit, or in an option, warn before the pool changes. Warnings may be errors."""
    owner, path = owner_of(backend, stacked=stacked), tmp_path / "pool"
    pool = filled(owner)
    pool.save(path)
    layers = [*owner._layers_of_weights.layers]
    bias = layers[-1].bias.copy()
    bias[-1] = np.nextafter(bias[-1], 9, dtype=bias.dtype)
    for last in (dataclasses.replace(layers[-1], bias=bias), dataclasses.replace(layers[-1], cell_clip=3.0)):
        weights = StackedWeights([*layers[:-1], last]) if stacked else last
        other = make_pool((LSTM if stacked else LSTMCell)(weights, backend=backend), 9)
        before = contents(other)
        with pytest.raises(OtherWeightsWarning, match=r"pool holds states of other weights than this pool's"):
            other.load(path)
        assert contents(other) == before
        with pytest.warns(OtherWeightsWarning) as caught:
            other.load(path)
        assert contents(other) == contents(pool)
        assert caught[0].filename == __file__


def test_residual_layers_are_other_weights(tmp_path):
    weights = StackedWeights.random(4, 4, 2, seed=0)
    filled(LSTM(weights, backend="numpy")).save(tmp_path / "pool")
    loads_quietly(LSTM(weights, backend="numpy"), tmp_path / "pool")
    with pytest.warns(OtherWeightsWarning):
        make_pool(LSTM(StackedWeights(weights.layers, residual=True), backend="numpy"), 9).load(tmp_path / "pool")


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_weights_do_not_warn(dtype, backend, tmp_path):
    """Weights from a file, or a stack of the cell's weights, on any backend."""
    owner, path = owner_of("numpy", dtype), tmp_path / "pool"
    filled(owner).save(path)
    owner.weights.save(tmp_path / "weights")
    loads_quietly(LSTMCell(LSTMWeights.load(tmp_path / "weights"), backend=backend), path)
    loads_quietly(LSTM(StackedWeights([owner.weights]), backend=backend), path)


def test_set_weights_count_for_the_fingerprint(backend, tmp_path):
    owner, path = owner_of(backend), tmp_path / "pool"
    pool = filled(owner)
    pool.save(path)
    owner.set_weights(owner_of("numpy", seed=1).weights)
    with pytest.warns(OtherWeightsWarning):
        pool.load(path)
    pool.save(path)
    loads_quietly(owner_of(backend, seed=1), path)


def test_older_files_load_without_a_warning(backend, tmp_path):
    """Files before version 4 have no fingerprint."""
    pool, path = filled(owner_of(backend)), tmp_path / "pool"
    pool.save(path)
    arrays, options = files.load(path, "StatePool")
    del options["weights"]
    files.save(path, "StatePool", arrays, options, 1)
    loads_quietly(owner_of(backend, seed=5), path)


# Saving.


def test_other_threads_go_on_during_a_save(monkeypatch, tmp_path):
    """The file has the states from the start of the save."""
    owner = owner_of("numpy")
    pool, path = filled(owner), tmp_path / "pool"
    before, write = contents(pool), pool_files.save

    def step_and_write(*arguments):
        worker = threading.Thread(target=lambda: (pool.reset([0, 2]), pool.release(3)))
        worker.start()
        worker.join(10)
        assert not worker.is_alive(), "the save should not lock the pool"
        write(*arguments)

    monkeypatch.setattr(pool_files, "save", step_and_write)
    pool.save(path)
    assert contents(pool) != before
    pool.load(path)
    assert contents(pool) == before


def test_a_failed_load_restores_the_states(monkeypatch, tmp_path):
    pool, path = filled(owner_of("numpy"), seed=1), tmp_path / "pool"
    filled(owner_of("numpy"), released=[0], seed=2).save(path)
    before, write, calls = contents(pool), pool._engine.write, []

    def fail_once(slots, states):
        write(slots, states)
        calls.append(slots)
        if len(calls) == 1:
            raise MemoryError("no memory")

    monkeypatch.setattr(pool._engine, "write", fail_once)
    with pytest.raises(MemoryError):
        pool.load(path)
    assert contents(pool) == before


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and killed")
@pytest.mark.parametrize(("way", "breaks"), [("carefully", False), ("naively", True)])
def test_killed_while_saving(way, breaks, tmp_path):
    """After each of 200 random kills, the old or the new file is there. A plain write breaks some."""
    kills = 200
    result = subprocess.run(
        [sys.executable, "-m", "support.pool_kills", str(tmp_path), way, str(kills)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    whole, broken, amid = map(int, result.stdout.split())
    assert whole + broken == kills
    assert (broken > 0) == breaks
    assert (amid > 0) != breaks, "some kills should come in the middle of a save"
