"""Products of the NumPy backend are correct, cut or not, and are cut where that is faster."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMWeights
from fusedlstm.backends.numpy import blas, matmul
from fusedlstm.backends.numpy.matmul import Product, Weight


@pytest.fixture
def small_kernels(monkeypatch):
    """Pretend that the BLAS has kernels for small products."""
    monkeypatch.setattr(matmul, "has_small_kernels", lambda: True)


def is_cut(B, K, N, dtype="float32"):
    return matmul.is_cut(B, K, N, np.dtype(dtype).itemsize)


@st.composite
def cases(draw):
    """Draw sizes, and the limits that decide how products are cut."""
    names = ("B", "K", "N", "S", "skip", "small", "width")
    ranges = [st.integers(1, 40)] * 3 + [st.sampled_from([1, 4]), st.integers(0, 3), st.integers(1, 4000)]
    return dict(zip(names, [draw(each) for each in [*ranges, st.sampled_from([16, 64, 256])]], strict=True))


@settings(max_examples=300, deadline=None)
@given(case=cases(), kernels=st.booleans(), dtype=st.sampled_from(["float32", "float64"]), tiled=st.booleans())
def test_a_cut_product_is_correct(case, kernels, dtype, tiled):
    """x and the weights are slices of larger arrays, and the limits vary."""
    B, K, N, S, skip = (case[name] for name in ("B", "K", "N", "S", "skip"))
    rng = np.random.default_rng(B + K + N)
    rows = rng.normal(size=(S, skip + K, N)).astype(dtype)
    whole, x = Weight(lambda: rows), rng.normal(size=(B, K + 2)).astype(dtype)[:, 1:-1]
    out = np.full((S, B, N), np.nan, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul, "has_small_kernels", lambda: kernels)
        patch.setattr(matmul, "_SMALL", case["small"])
        patch.setattr(matmul, "_WIDTH", case["width"])
        cut = matmul.is_cut(B, K, N, x.itemsize)
        assert cut == (kernels and B > 1 and 4 * K * matmul._width(N, x.itemsize) <= case["small"])
        if cut:
            pieces = list(matmul._pieces(x, out, tiled=tiled))
            assert all(rows.shape[1] * K * place.shape[-1] <= case["small"] for rows, _, place in pieces)
            assert tiled or min(rows.shape[1] for rows, _, place in pieces) > 1
        Product(x, out, tiled=tiled).run(whole.of_rows(slice(skip, None)) if skip else whole)
    exact = x.astype(float) @ rows[:, skip:].astype(float)
    np.testing.assert_allclose(out, exact, atol=1e-4 if dtype == "float32" else 1e-12)


def test_pieces_fit_the_small_kernels(small_kernels):
    for B, K, N in [
        (2, 1280, 640),
        (31, 1024, 512),
        (1000, 256, 128),
        (100, 700, 257),
        (3, 4000, 60),
        (211, 1024, 512),
    ]:
        out = np.zeros((4, B, N), np.float32)
        pieces = list(matmul._pieces(np.zeros((B, K), np.float32), out))
        widths = {place.shape[-1] for _, _, place in pieces}
        assert all(x.shape[1] * K * place.shape[-1] <= 1_000_000 for x, _, place in pieces)
        assert sum(place.size for _, _, place in pieces) == out.size
        assert all(np.shares_memory(place, out) for _, _, place in pieces)
        assert max(widths) in (64, N), widths
        assert min(x.shape[1] for x, _, _ in pieces) > 1


def test_tiled_pieces_have_whole_tiles(small_kernels):
    pieces = list(matmul._pieces(np.zeros((130, 1024), np.float32), np.zeros((1, 130, 256), np.float32), tiled=True))
    assert sorted({x.shape[1] for x, _, _ in pieces}) == [10, 12]
    assert sum(place.size for _, _, place in pieces) == 130 * 256


def test_products_are_cut_where_it_pays(small_kernels, monkeypatch):
    assert is_cut(2, 256, 128)
    assert is_cut(10_000, 1024, 512)
    assert is_cut(32, 1280, 640, "float64")
    assert not is_cut(1, 1024, 512)  # a vector's product needs no packing
    assert not is_cut(2, 16_000, 512)  # a single row exceeds the limit
    assert is_cut(32, 3900, 512)
    assert not is_cut(32, 3910, 512)  # at most three rows would fit
    assert not is_cut(0, 256, 128)
    monkeypatch.setattr(matmul, "has_small_kernels", lambda: False)
    assert not is_cut(16, 256, 128)


@pytest.mark.parametrize(("kernel", "known"), [("SkylakeX", True), ("Haswell", False), (None, False)])
def test_small_kernels_are_known_by_name(kernel, known, monkeypatch):
    monkeypatch.setattr(blas, "kernel", lambda: kernel)
    assert matmul.has_small_kernels.__wrapped__() is known


def test_layouts_are_made_once_on_demand(small_kernels):
    made = []
    rows = np.random.default_rng(0).normal(size=(4, 20, 8)).astype(np.float32)
    weight = Weight(lambda: made.append(1) or rows)
    part = weight.of_rows(slice(5, None))
    assert not made
    for _ in range(2):
        Product(np.ones((3, 15), np.float32), np.empty((4, 3, 8), np.float32)).run(part)
    assert len(made) == 1
    Product(np.ones((1, 20), np.float32), np.empty((4, 1, 8), np.float32)).run(weight)
    assert len(made) == 2
    assert np.shares_memory(part.columns[0], weight.columns[0])
    other = Weight(lambda: rows)
    other.lay_out_as(weight)
    assert {"wide", "columns"} <= vars(other).keys()
    fresh = Weight(lambda: rows)
    fresh.lay_out_as(Weight(lambda: rows))
    assert not {"wide", "planes", "columns"} & vars(fresh).keys()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("proj_size", [None, 70])
def test_cut_products_match_plain_ones(bias, proj_size, small_kernels, monkeypatch):
    """Sizes give several blocks of columns and several groups of rows, both with a remainder."""
    I, N, T = 150, 170, 5
    weights = LSTMWeights.random(I, N, seed=3, proj_size=proj_size, bias=bias)
    rng = np.random.default_rng(0)
    for B in (1, 2, 7, 23, 100):
        xs = rng.normal(size=(T, B, I)).astype(np.float32)
        results = []
        for kernels in (True, False):
            monkeypatch.setattr(matmul, "has_small_kernels", lambda kernels=kernels: kernels)
            cell, lstm = LSTMCell(weights, backend="numpy"), LSTM(weights, backend="numpy")
            assert (cell._engine.scratch.take().of_batch(B).of_both._pieces is not None) == (kernels and B > 1)
            state = cell.zero_state(B)
            for x in xs:
                state = cell(x, state)
            outputs, (final,) = lstm(xs)
            results.append([state.h, state.c, outputs, final.h, final.c])
        for cut, plain in zip(*results, strict=True):
            np.testing.assert_allclose(cut, plain, atol=3e-6)
        np.testing.assert_allclose(results[0][0], results[0][3], atol=3e-6)
