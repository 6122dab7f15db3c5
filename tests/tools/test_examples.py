"""The example of poles on carts runs, does what it says, and would show a mistake."""

import types

import numpy as np
import pytest

from examples import cartpole
from fusedlstm.arrays.host import to_host

from support.backends import BACKENDS

LIMITS = np.array([2.4, np.radians(12)])


def played(poles, policy, program=cartpole.with_pool):
    """The environments after all their ticks."""
    play = program(poles, *policy)
    for _ in range(len(poles.ready)):
        play()
    return poles


@pytest.fixture(scope="module")
def policy():
    return cartpole.load("numpy")


@pytest.fixture(scope="module")
def whole_episodes(policy):
    """16 environments, in each of which at least an episode has ended."""
    return played(cartpole.CartPoles(np, 16, 1200), policy)


def environments_alike(poles, others):
    """How many have taken the same actions throughout."""
    return (poles.actions == others.actions).all(axis=0).sum()


def test_dynamics():
    """By Newton's equations of both bodies, as a linear system: in one step of 0.02 s, speeds before positions' own."""
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (50, 4)) * [2.4, 3, 0.2, 3]
    right = rng.random(50) < 0.5
    after = cartpole.advance(np, states, right)
    for (x, speed, angle, spin), force, got in zip(states, np.where(right, 10, -10), after, strict=True):
        sine, cosine = np.sin(angle), np.cos(angle)
        # Unknown are the rates of speed and of spin. First the forces along the track, then the pole about its pivot.
        system = [[1.0 + 0.1, 0.1 * 0.5 * cosine], [cosine, 4 / 3 * 0.5]]
        rates = np.linalg.solve(system, [force + 0.1 * 0.5 * spin**2 * sine, 9.8 * sine])
        wanted = [x + 0.02 * speed, speed + 0.02 * rates[0], angle + 0.02 * spin, spin + 0.02 * rates[1]]
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_float32_stays():
    states = np.zeros((3, 4), np.float32)
    assert cartpole.advance(np, states, np.array([True, False, True])).dtype == np.float32


@pytest.mark.parametrize("column", [0, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_where_an_episode_ends(column, sign):
    states = np.zeros((2, 4))
    states[:, column] = sign * LIMITS[column // 2] * np.array([0.999, 1.001])
    assert cartpole.has_fallen(states).tolist() == [False, True]


def test_environments_that_are_ready():
    """A half at each tick, each once; the others stay as they are. What ends begins anew, and says so."""
    poles = cartpole.CartPoles(np, 5, 40)
    assert poles.ready.shape == (40, 3)
    began = 0
    for tick in range(40):
        before, first = poles.states.copy(), poles.is_first.copy()
        rows, x, is_first = poles.receive()
        assert len(set(rows.tolist())) == 3
        np.testing.assert_array_equal(x, before[rows][:, [0, 2]])
        np.testing.assert_array_equal(is_first, first[rows])
        poles.send(np.ones(3, bool))  # which fells a pole in some ten steps
        others = np.setdiff1d(np.arange(5), rows)
        np.testing.assert_array_equal(poles.states[others], before[others])
        np.testing.assert_array_equal(poles.is_first[others], first[others])
        moved = cartpole.advance(np, before[rows], np.ones(3, bool))
        anew = poles.is_first[rows]
        np.testing.assert_array_equal(anew, (np.abs(moved[:, ::2]) > LIMITS).any(axis=1))
        np.testing.assert_array_equal(poles.states[rows][~anew], moved[~anew])
        assert (np.abs(poles.states[rows][anew]) <= 0.05).all()
        assert not poles.ages[rows][anew].any()
        np.testing.assert_array_equal(poles.actions[tick, others], -1)
        began += anew.sum()
    assert began == poles.episodes.sum() >= 5
    assert poles.finished_steps.sum() + poles.ages.sum() == 40 * 3


def test_policy_balances(whole_episodes):
    assert (whole_episodes.episodes >= 1).all()
    mean = whole_episodes.finished_steps.sum() / whole_episodes.episodes.sum()
    assert 480 < mean <= cartpole.LONGEST


class Told(cartpole.CartPoles):
    """Environments that say the same of all rows: that each step is the first one of an episode, or that none is."""

    def __init__(self, *args, is_first):
        super().__init__(*args)
        self.told = is_first

    def receive(self):
        rows, x, is_first = super().receive()
        return rows, x, np.full_like(is_first, self.told)


def test_policy_needs_its_memory(policy):
    poles = played(Told(np, 16, 400, is_first=True), policy)
    assert poles.finished_steps.sum() / poles.episodes.sum() < 100


def test_resets_that_are_forgotten_change_actions(policy, whole_episodes):
    poles = played(Told(np, 16, 1200, is_first=False), policy)
    assert environments_alike(poles, whole_episodes) < 16
    steps = np.cumsum(poles.actions >= 0, axis=0)
    same = (poles.actions == whole_episodes.actions) | (steps > cartpole.LONGEST)
    assert same.all(), "states of slots that were just allocated are those of a first step"


def test_pytorch_acts_alike(policy, whole_episodes):
    """Resets too, as each environment's second episode shows."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    poles = played(cartpole.CartPoles(np, 16, 1200), policy, cartpole.with_torch)
    assert environments_alike(poles, whole_episodes) == 16
    forgetful = played(Told(np, 16, 1200, is_first=False), policy, cartpole.with_torch)
    assert environments_alike(forgetful, whole_episodes) < 16


@pytest.mark.skipif(BACKENDS == ["numpy"], reason="cuda runs neither here nor emulated")
def test_pool_on_a_gpu(policy):
    """The pool's program with simulators in host memory, as the stand-in for CuPy has no sines."""

    class OnHost(cartpole.CartPoles):
        def receive(self):
            rows, x, is_first = super().receive()
            return rows, cell.asarray(x), is_first

        def send(self, right):
            super().send(to_host("right", right))

    cell, head = cartpole.load("cuda")
    wanted = played(cartpole.CartPoles(np, 8, 60), policy)
    assert environments_alike(played(OnHost(np, 8, 60), (cell, head)), wanted) == 8


def test_program(capsys, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    threads = torch.get_num_threads()
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    try:
        cartpole.main(["--environments", "8", "--steps", "5", "--backend", "numpy"])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    what, *programs, same = capsys.readouterr().out.splitlines()
    assert what == "LSTMWeights(I=2, N=64, float32, bias) on cpu; OPENBLAS_NUM_THREADS: 1"
    assert [line.split()[0] for line in programs] == ["StatePool", "torch.nn.LSTMCell"]
    assert all(line.endswith("environment steps a second; 0 episodes have ended") for line in programs)
    assert same == "The same actions throughout in 8 of 8 environments."


def test_program_without_pytorch(capsys, monkeypatch):
    nowhere = types.SimpleNamespace(find_spec=lambda name: None)
    monkeypatch.setattr(cartpole, "importlib", types.SimpleNamespace(util=nowhere))
    cartpole.main(["--environments", "4", "--steps", "600", "--backend", "numpy"])
    _, program, last = capsys.readouterr().out.splitlines()
    assert program.startswith("StatePool ")
    assert program.endswith("episodes of 500.0 steps on average")
    assert last == "PyTorch is not installed: there is nothing to compare with."


def test_program_refuses_nothing_to_do(capsys):
    with pytest.raises(SystemExit):
        cartpole.main(["--environments", "0"])
    assert "wanted 1 or more" in capsys.readouterr().err


@pytest.fixture
def training(monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.syspath_prepend(cartpole.FOLDER)
    import train_cartpole

    return train_cartpole


def test_controller_balances(training):
    """What the policy has learned from does what it is to teach."""
    states = np.random.default_rng(0).uniform(-0.05, 0.05, (100, 4))
    before = np.zeros_like(states)
    for _ in range(cartpole.LONGEST):
        states, before = cartpole.advance(np, states, training.controller(states, before) > 0), states
        assert not cartpole.has_fallen(states).any()


def test_training_writes_what_the_example_loads(training, monkeypatch, tmp_path):
    import torch

    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    monkeypatch.setattr(training, "FOLDER", tmp_path)
    monkeypatch.setattr(training, "UPDATES", 1)
    try:
        training.main()
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(generator)
    ours, ours_head = cartpole.load("numpy")
    monkeypatch.setattr(cartpole, "FOLDER", tmp_path)
    cell, head = cartpole.load("numpy")
    assert (cell.weights.input_size, cell.weights.hidden_size, head.shape) == (2, 64, ours_head.shape)
    scale = np.abs(cell.weights.weight_ih).max(axis=0)  # uniform in +-1/8, times SCALES
    np.testing.assert_allclose(scale, training.SCALES.numpy() / 8, rtol=0.1)
