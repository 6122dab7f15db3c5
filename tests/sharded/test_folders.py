"""Folders of sharded pools are whole after killed saves, and damage is found."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMCell, LSTMState, LSTMWeights, StatePool, WeightsFileError
from fusedlstm.ray import folder as folders

from support.places import ENVIRONMENT, TESTS

WEIGHTS = LSTMWeights.random(2, 3, seed=0)


def part(keys, value=1.0):
    full = np.full((len(keys), 3), value, np.float32)
    return keys, (np.arange(len(keys)), [LSTMState(h=full, c=2 * full)])


def written(folder, *parts):
    folders.write(str(folder), parts, WEIGHTS)
    return folder / "manifest.json"


def test_round_trip(tmp_path):
    written(tmp_path, part(["a", 1]), part([], 2.0), part(["1"], 3.0))
    keys, (state,), are_others = folders.read(str(tmp_path), WEIGHTS)
    assert keys == ["a", 1, "1"]
    assert state.h[:, 0].tolist() == [1.0, 1.0, 3.0]
    assert state.c[:, 0].tolist() == [2.0, 2.0, 6.0]
    assert not are_others
    assert folders.read(str(tmp_path), LSTMWeights.random(2, 3, seed=1))[2]


def test_files_are_those_of_pools(tmp_path):
    written(tmp_path, part(["a", "b"]))
    (path,) = tmp_path.glob("states-*")
    pool = StatePool(LSTMCell(WEIGHTS, backend="numpy"), 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool.load(path)
    assert pool.read([0, 1]).c.tolist() == [[2.0] * 3] * 2


def test_old_files_are_removed(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    old = f"states-{'0' * 16}-0.safetensors"
    for name in (old, f".{old}.{'0' * 16}.fusedlstm-tmp"):
        (tmp_path / name).write_text("left by a killed save")
    for _ in range(2):
        written(tmp_path, part(["a"]), part(["b"]))
        assert len(list(tmp_path.iterdir())) == 4
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda found: found.update(version=2), "is newer than this fusedlstm: its version is 2"),
        (lambda found: found.update(version=0), "is damaged"),
        (lambda found: found.update(files=[]), "is damaged"),
        (lambda found: found.pop("files"), "is damaged"),
        (lambda found: found["files"][0].update(name="../x.safetensors"), "is wrong"),
        (lambda found: found["files"][0].update(name=f"states-{'0' * 16}-0.safetensors"), "which is missing"),
        (lambda found: found["files"][0].update(name=3), "is damaged"),
        (lambda found: found["files"][0].update(keys="ab"), "is wrong"),
        (lambda found: found["files"][0].update(keys=["a", None]), "is wrong"),
        (lambda found: found["files"][0].update(keys=["a", True]), "is wrong"),
        (lambda found: found["files"][0].update(keys=["a"]), "has 2 sessions, not 1"),
        (lambda found: found["files"][0].update(keys=["a", "a"]), "a key is repeated"),
    ],
)
def test_damaged_manifests_are_found(damage, says, tmp_path):
    manifest = written(tmp_path, part(["a", "b"]))
    found = json.loads(manifest.read_text())
    damage(found)
    manifest.write_text(json.dumps(found))
    with pytest.raises(WeightsFileError, match=says):
        folders.read(str(tmp_path), WEIGHTS)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"version": "1", "files": [{}]}', "\0"])
def test_other_manifests_are_found(text, tmp_path):
    written(tmp_path, part(["a"])).write_text(text)
    with pytest.raises(WeightsFileError, match=r"manifest\.json"):
        folders.read(str(tmp_path), WEIGHTS)


def test_damaged_and_other_states_are_found(tmp_path):
    written(tmp_path, part(["a"]))
    with pytest.raises(WeightsFileError, match="holds states of layers"):
        folders.read(str(tmp_path), LSTMWeights.random(2, 4, seed=0))
    (path,) = tmp_path.glob("states-*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsFileError, match="checksum"):
        folders.read(str(tmp_path), WEIGHTS)


def killed(folder, way, kills):
    """Return how often the folder was whole and broken, and how many kills came during a save."""
    command = [sys.executable, "-m", "support.folder_kills", folder, way, str(kills)]
    found = subprocess.run(
        command, cwd=TESTS, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert not found.returncode, found.stderr
    return map(int, found.stdout.split())


def test_killed_saves_leave_a_whole_folder(tmp_path):
    whole, broken, amid = killed(tmp_path, "carefully", 60)
    assert (whole, broken) == (60, 0)
    assert amid > 5


@pytest.mark.nightly
def test_planted_early_manifest_is_found(tmp_path):
    _, broken, _ = killed(tmp_path, "manifest_first", 60)
    assert broken
