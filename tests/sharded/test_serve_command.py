"""The command `fusedlstm serve`: what it finds wrong before it starts Ray, and whose error it shows."""

import asyncio

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMWeights, StackedWeights, WeightsFileError
from fusedlstm.cli import serve as command
from fusedlstm.cli.arguments import parser
from fusedlstm.ray.serve import Limits, LocalPool, app_of, deployment, saved
from fusedlstm.ray.serve.service import Service

from support.asgi import lifespan

SQUARE = LSTMWeights.random(4, 4, seed=0)


def options_of(path, weights, *more):
    """Return the command's options for weights, which are saved to a path."""
    weights.save(path)
    return parser().parse_args(["serve", str(path), *map(str, more)])


@pytest.fixture(autouse=True)
def runs(monkeypatch):
    """Return the applications that the command would run, which it doesn't."""
    seen = []
    monkeypatch.setattr(command, "_run", lambda say, application, options: seen.append(application))
    monkeypatch.setattr(command, "_check_free", lambda *_: None)
    return seen


def test_residual_top_layers_are_refused(tmp_path, runs):
    options = options_of(tmp_path / "w", StackedWeights([SQUARE], residual=True))
    with pytest.raises(ValueError, match="WEIGHTS: wanted weights whose top layer is not residual"):
        command.serve(print, options)
    assert not runs


async def save(weights, folder):
    service = Service(LocalPool(weights, 2, backend="numpy"), Limits(), folder)
    await service.start()
    await service.open(["a"])
    await service.drain()


@pytest.mark.filterwarnings("ignore")  # those of Ray Serve
@pytest.mark.parametrize("size", [4, 5])
def test_folders_of_other_weights_are_refused(tmp_path, runs, monkeypatch, size):
    monkeypatch.setattr(saved, "LOCK_SECONDS", 0.1)
    folder = tmp_path / "sessions"
    options = options_of(tmp_path / "w", SQUARE, "--folder", folder)
    asyncio.run(save(LSTMWeights.random(4, size, seed=1), str(folder)))
    with pytest.raises(WeightsFileError, match="sessions has sessions of other weights. Give the weights"):
        command.serve(print, options)
    with saved.lock(str(folder), 0), pytest.raises(OSError, match="another service uses this folder"):
        command.serve(print, options)
    assert not runs
    options = options_of(tmp_path / "w", LSTMWeights.random(4, size, seed=1), "--folder", folder)
    assert command.serve(print, options) == 0
    saved.lock(str(folder), 0).close()
    assert len(runs) == 1


def test_missing_gpus_are_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    enough = options_of(tmp_path / "w", SQUARE, "--num-gpus", 0.5)
    command._check_gpus(enough)
    with pytest.raises(ValueError, match="--num-gpus: wanted at most 1 GPUs in all 2 shards, .*; got 2"):
        command._check_gpus(options_of(tmp_path / "w", SQUARE, "--num-gpus", 1))
    assert not caplog.records
    command._check_gpus(options_of(tmp_path / "w", SQUARE, "--num-gpus", 1, "--address", "auto"))
    assert caplog.messages == ["this cluster has 1 GPUs. The service waits until there are 2"]


def test_replicas_tell_why_they_failed(tmp_path):
    """Serve tells the error of `check_health`, and not that of an app's start."""
    (tmp_path / "file").write_text("")
    app = app_of(lambda: LocalPool(SQUARE, 2, backend="numpy"), folder=str(tmp_path / "file"))
    replica = object.__new__(deployment._Replica)
    replica.app = app

    async def start():
        app.router.lifespan_context = deployment._keeping_error(app.router.lifespan_context)
        async with lifespan(app):
            with pytest.raises(OSError, match="file"):
                replica.check_health()

    asyncio.run(start())
    replica.app = app_of(lambda: None)
    replica.check_health()
