"""The examples run as they stand, are short, and fail if something in them is wrong."""

import re
import sys

import numpy as np
import pytest

from fusedlstm import convert

from support.cells import host
from support.places import ROOT

EXAMPLES = ROOT / "examples"
LINES = {
    "tensorflow1_stream": 80,
    "torch_rollout": 80,
    "audio_pool": 80,
    "torch_ppo": 160,
    "voice_activity": 170,
}  # the most
SMALL_POOL = {"CHANGES = 1000, 5": "CHANGES = 12, 2", "T, B = 300, 256": "T, B = 40, 8", "N = 160, 128": "N = 5, 8"}
SMALL_PPO = {
    "B, T, N = 16, 128, 64": "B, T, N = 4, 32, 8",
    "LONGEST, WANTED, LAST = 500, 450, 50": "LONGEST, WANTED, LAST = 12, 5, 2",
}
SMALL_VOICE = {"B, SECONDS = 96, 6": "B, SECONDS = 6, 5"}


def run(name, changes=()):
    """Run an example with parts of its text replaced, and return its names."""
    path = EXAMPLES / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    for old, new in dict(changes).items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    names = {"__name__": "__main__", "__file__": str(path)}
    exec(compile(text, str(path), "exec"), names)
    return names


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    yield torch
    torch.set_rng_state(generator)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", LINES)
def test_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < LINES[name]


def test_tensorflow1_stream(backend, monkeypatch, capsys):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    names = run("tensorflow1_stream")
    assert names["lstm"].backend == backend
    np.testing.assert_allclose(names["outputs"], names["wanted"], rtol=0, atol=1e-5)
    *scopes, _, last = capsys.readouterr().out.splitlines()
    assert scopes[1:] == [
        "rnn/multi_rnn_cell/cell_0/lstm_cell: I = 3, N = 4, P = 2",
        "rnn/multi_rnn_cell/cell_1/lstm_cell: I = 2, N = 4, P = 4",
    ]
    assert last.startswith("4 steps of 2 rows; largest difference from TensorFlow 1.15: output ")


def test_torch_rollout(torch, capsys):
    """On a GPU if PyTorch finds one, else in NumPy: PyTorch has no emulated GPU."""
    names = run("torch_rollout")
    assert names["rewards"].mean() > 0.9
    assert not names["flags"][0].all()  # a state goes on from one rollout to the next
    assert names["flags"][1:].any()
    means = [float(mean) for mean in re.findall(r"mean reward (\S+);", capsys.readouterr().out)]
    assert len(means) == 10
    assert means[0] < 0.3


def policy_after_an_update(monkeypatch, flags=(), changes=()):
    """Return the parameters that a small run of torch_ppo ends with."""
    monkeypatch.setattr(sys, "argv", ["torch_ppo.py", *flags])
    names = run("torch_ppo", SMALL_PPO | dict(changes))
    assert names["number"] == 1
    assert resets_inside(names)
    return [parameter.detach() for parameter in names["policy"].parameters()]


def resets_inside(names):
    """Return whether episodes ended inside the rollout, by falling or by being cut off."""
    return bool(names["firsts"][1:].any() and names["cut"].any())


def test_torch_ppo_learns_as_an_unrolled_cell(torch, monkeypatch, capsys):
    got, wanted = (policy_after_an_update(monkeypatch, flags) for flags in ((), ("--unrolled",)))
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert re.search(r"128 steps: the last 2 episodes took \d+ steps on average\n", capsys.readouterr().out)
    without = policy_after_an_update(monkeypatch, changes={", is_first=is_first)": ")"})
    assert not all(
        torch.allclose(ours, theirs, rtol=0, atol=1e-5) for ours, theirs in zip(without, wanted, strict=True)
    )


def test_torch_ppo_fails_if_it_does_not_learn(torch, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["torch_ppo.py", "--minutes", "0"])
    with pytest.raises(AssertionError, match="the policy didn.t learn"):
        run("torch_ppo")


def assert_pool_stepped(names):
    """Check the output of the last tick, and that the watched stream had frames in some ticks only."""
    pool, rows, out = names["pool"], names["rows"], host(names["out"])
    assert pool.live == names["STREAMS"]
    padding = rows == -1
    assert padding.any()
    assert not out[padding].any()
    np.testing.assert_array_equal(out[~padding], host(pool.read(rows[~padding]).h))
    assert 5 < len(names["heard"]) < names["T"]


def test_audio_pool(backend, monkeypatch):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    names = run("audio_pool", SMALL_POOL)
    assert names["cell"].backend == backend
    assert_pool_stepped(names)


def test_audio_pool_with_a_thousand_streams(monkeypatch, capsys):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "numpy")
    assert_pool_stepped(run("audio_pool"))
    speed, streams, same = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\d,]+ ticks and [\d,]+ frames a second on cpu:", speed)
    assert re.fullmatch(r"enough for [\d,]+ streams of 100 frames a second", streams)
    assert re.fullmatch(r"1000 streams are live\. .* had \d+ frames: run alone, it differs by \S+", same)


@pytest.fixture
def voice_activity(torch, monkeypatch):
    """Return a function that runs the example with a stand-in for silero-vad, and a service in this process."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from support import silero_stand_in
    from support.served import served

    torch.set_num_threads(1)  # as silero_vad does
    monkeypatch.setitem(sys.modules, "silero_vad", silero_stand_in.package)
    weights = convert.from_torch(silero_stand_in.Model()._model.decoder.rnn)

    def run_it(changes=()):
        with served(weights, capacity=8) as url:
            monkeypatch.setattr(sys, "argv", ["voice_activity.py", "--url", url])
            return run("voice_activity", SMALL_VOICE | dict(changes))

    return run_it


def test_voice_activity(voice_activity, capsys):
    names = voice_activity()
    assert names["found"].shape == (156, 6)
    assert names["found"].std() > 0.01
    assert names["has_voice"].any(0).tolist() == [True, False] * 3
    *_, found, same, speed, difference = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Voice was found in \d of 3 streams that have some, and in \d of 3 others\.", found)
    assert re.fullmatch(r"[\d.]+% of all frames were classified correctly\.", same)
    assert re.fullmatch(r"[\d,]+ messages and [\d,]+ rows a second, with one message at a time", speed)
    assert re.fullmatch(r"The probabilities differ from those of the package's own model by at most \S+", difference)


VOICE_MISTAKES = {
    "context lost": {"* FRAME + CONTEXT]))[..., 0]": "* FRAME + CONTEXT] * (torch.arange(576) >= 64)))[..., 0]"},
    "sessions mixed up": {"(t, handles, np": "(t, handles[:: 1 - 2 * (t % 2)], np"},
    "a frame twice": {"np.full(B, t + 1), x)": "np.full(B, max(t, 1)), x)"},
}


@pytest.mark.parametrize("mistake", VOICE_MISTAKES)
def test_mistake_in_voice_activity_fails(mistake, voice_activity, capsys):
    with pytest.raises(AssertionError):
        voice_activity(VOICE_MISTAKES[mistake])


MISTAKES = {
    "another forget bias": ("tensorflow1_stream", {"forget_bias=1.0": "forget_bias=0.0"}),
    "h lost": ("tensorflow1_stream", {'asarray(saved[f"h{k}"])': 'asarray(0 * saved[f"h{k}"])'}),
    "outputs not copied": ("torch_rollout", {", copy=True)": ")"}),
    "no resets": ("torch_rollout", {"stepper.step(x, is_first,": "stepper.step(x,"}),
    "old weights": ("torch_rollout", {"actor.set_weights(convert.from_torch(core))": "pass"}),
    "snapshot not loaded": (
        "audio_pool",
        {**SMALL_POOL, 'pool.load(Path(folder, "streams.safetensors"))': "pool.allocate(STREAMS)"},
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_fails(mistake, request, monkeypatch):
    """Each example checks its own result, so a copy with a mistake fails."""
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "numpy")
    name, changes = MISTAKES[mistake]
    if name == "torch_rollout":
        request.getfixturevalue("torch")
    with pytest.raises(AssertionError) as raised:
        run(name, changes)
    assert raised.traceback[-1].path == EXAMPLES / f"{name}.py"
