"""The benchmarks of sequences: their grid, the peers that take resets, and x's part alone."""

import itertools

import numpy as np
import pytest

from benchmarks import cases, peers, sequence_grid, side_by_side, x_part
from benchmarks.cases import WrongResultError, sequence
from benchmarks.peers import peer as peer_module
from benchmarks.peers import torch_common, torch_padded
from benchmarks.peers.peer import CannotRunError

from support.backends import needs_cuda

PEERS = {peer.name: peer for peer in peers.all_peers()}
RESETS = [
    sequence("resets", 9, 5, 7, 12, resets=0.2),
    sequence("layers", 16, 5, 7, 12, layers=2, resets=0.2),
    sequence("one row", 16, 1, 7, 12, resets=0.5),
    sequence("none", 9, 5, 7, 12),
]


def test_grid_is_whole_and_few_are_timed():
    """Each length, batch, number of units and share of resets is timed by default."""
    grid = sequence_grid.GRID
    sizes = {(case.T, case.B, case.N, case.resets) for case in grid}
    wanted = (16, 128, 512, 1600), (1, 16, 32, 128, 1024), (128, 256, 384, 512, 768, 1024), (0, 0.03, 0.3)
    assert sizes == set(itertools.product(*wanted))
    for dtype in ("float32", "bfloat16"):
        of_dtype = [case for case in cases.chosen(grid, quick=False, device="cuda") if case.dtype == dtype]
        assert len(of_dtype) == 21
        for name, values in zip(("T", "B", "N", "resets"), wanted, strict=True):
            assert {getattr(case, name) for case in of_dtype} == set(values)
    assert len(cases.chosen(grid, quick=False, device="cpu")) == 18
    assert len(cases.chosen(grid, quick=True, device="cpu")) == 2


@pytest.mark.filterwarnings("ignore")  # from other libraries
@pytest.mark.parametrize(
    "name",
    [
        "fusedlstm Sequencer",
        "torch.nn.LSTM",
        "torch.nn.LSTM, split and padded",
        "torch.nn.LSTMCell in a loop",
        "JAX jit",
    ],
)
def test_resets_of_peers_are_right(name):
    peer = PEERS[name]
    if peer.why_not("cpu"):
        pytest.skip(peer.why_not("cpu"))
    for case in RESETS:
        if peer.cannot(case) is None:
            case.assert_right(side_by_side.begun(peer, peer.prepare(case, "cpu", 1)))


@pytest.mark.parametrize("fault", ["lengths", "begins", "rows"])
def test_wrong_split_is_refused(fault, monkeypatch):
    """Steps that leave out a reset, or rows that begin with the state of another one, are wrong."""
    pytest.importorskip("torch")
    right, case = torch_padded.split, RESETS[0]

    def wrong(is_first):
        if fault == "begins":
            is_first = is_first.roll(1, dims=0)
        starts, lengths, rows = right(is_first)
        return (
            starts,
            lengths.clamp(max=3) if fault == "lengths" else lengths,
            rows.flip(0) if fault == "rows" else rows,
        )

    peer = PEERS["torch.nn.LSTM, split and padded"]
    case.assert_right(peer.results(peer.prepare(case, "cpu", 1)()))
    monkeypatch.setattr(torch_padded, "split", wrong)
    with pytest.raises((WrongResultError, RuntimeError)):
        case.assert_right(peer.results(peer.prepare(case, "cpu", 1)()))


def test_split_finds_each_sequence():
    torch = pytest.importorskip("torch")
    is_first = torch.tensor([[0, 0, 0, 1, 0], [1, 0, 1, 1, 0]]).bool().T  # (5, 2)
    starts, lengths, rows = (part.tolist() for part in torch_padded.split(is_first))
    assert (starts, lengths, rows) == ([0, 3, 5, 7, 8], [3, 2, 2, 1, 2], [0, 0, 1, 1, 1])


def test_torchrl_is_left_out_with_its_reason(monkeypatch):
    peer = PEERS["TorchRL, Triton"]
    assert peer.why_not("cpu") == "it runs on cuda only"
    monkeypatch.setattr(peer_module.importlib.util, "find_spec", lambda name: None)
    assert peer.why_not("cuda") == "torchrl is not installed"
    monkeypatch.setattr(torch_common.TorchPeer, "why_not", lambda peer, device: None)
    assert peer.why_not("cuda") == "triton is not installed"
    assert peer.cannot(sequence("p", 9, 5, 7, 12, P=3)) == "its Triton kernels have no projection"


@pytest.mark.filterwarnings("ignore")  # from other libraries
def test_torchrl_is_called_correctly(monkeypatch):
    """Its other backends are called in the same way, and need no Triton."""
    pytest.importorskip("torchrl")
    peer = PEERS["TorchRL, Triton"]
    monkeypatch.setattr(type(peer), "backend", "pad")
    for case in RESETS:
        case.assert_right(peer.results(peer.prepare(case, "cpu", 1)()))


class OfX(x_part.XPart):
    """Its products are wrong in one number."""

    def results(self, raw):
        gates = super().results(raw)
        gates[-1, -1] += np.float32(1e-3)
        return gates


@pytest.mark.parametrize(
    "about",
    [
        ("cpu", None, "float32", 1, 300),  # several chunks
        ("cpu", None, "float32", 3, 16),
        *(
            pytest.param(("cuda", kernel, dtype, B, T), marks=needs_cuda)
            for kernel, dtype in (("matmul", "float32"), ("scan", "bfloat16"))
            for B, T in ((1, 8), (9, 8))
        ),
    ],
)
def test_x_part_is_right(about, monkeypatch):
    """It is the engine's own, with the last step's gates in the order i, f, g, o."""
    device, kernel, dtype, B, T = about
    case = sequence("x", T, B, 16, 16, dtype=dtype)
    if device == "cuda":
        from fusedlstm.backends.cuda import static_sequence

        monkeypatch.setattr(static_sequence, "_MOST_GATES", 4 * B * 64 * 4)  # four steps at once
    run = x_part.XPart(kernel).prepare(case, device, 1)
    part = x_part.XPart(kernel)
    for _ in range(2):
        part.check(case, run())
    if dtype == "float32":
        with pytest.raises(WrongResultError):
            OfX(kernel).check(case, run())


def test_x_of_single_steps_is_not_timed():
    with pytest.raises(CannotRunError, match="each step multiplies its x itself"):
        x_part.XPart().prepare(sequence("x", 4, 64, 300, 300), "cpu", 1)
