"""Weights files keep every bit, are written all or nothing, and are refused with a clear reason if damaged."""

import contextlib
import itertools
import json
import os
import pickle
import stat
import struct
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save as to_bytes

from fusedlstm import LSTMWeights, WeightsFileError, files, safetensors_parts
from fusedlstm.atomic_write import replacing

from support import moments
from support.places import DATA

V1_WEIGHT_HR = [
    [-0.111328125, -0.11962890625, 0.41015625, -0.10693359375],
    [-0.1513671875, -0.15234375, -0.019287109375, -0.40625],
]
VERSION_1 = DATA / "weights_v1.safetensors"


def assert_equal(a, b):
    assert a.options() == b.options()
    assert a.arrays().keys() == b.arrays().keys()
    for name, array in a.arrays().items():
        other = getattr(b, name)
        assert array.dtype == other.dtype
        assert array.tobytes() == other.tobytes(), name


def everything(dtype="float32"):
    return LSTMWeights.random(
        3, 4, proj_size=2, peephole=True, cell_clip=0.0, proj_clip=0.25, activation="elu", seed=3, dtype=dtype
    )


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_round_trip(dtype, tmp_path):
    path = tmp_path / "w.safetensors"
    weights = everything(dtype)
    weights.save(path)
    loaded = LSTMWeights.load(str(path))
    assert_equal(loaded, weights)
    assert not loaded.weight_ih.flags.writeable
    first = path.read_bytes()
    weights.save(path)
    assert path.read_bytes() == first, "equal weights should give equal bytes"


@settings(max_examples=25)
@given(
    I=st.integers(0, 3),
    N=st.integers(1, 3),
    bias=st.booleans(),
    peephole=st.booleans(),
    clip=st.none() | st.floats(0, allow_nan=False),
    dtype=st.sampled_from(["float64", "bfloat16"]),
)
def test_round_trip_of_any_weights(tmp_path_factory, I, N, bias, peephole, clip, dtype):
    path = tmp_path_factory.mktemp("files") / "w"
    weights = LSTMWeights.random(I, N, bias=bias, peephole=peephole, cell_clip=clip, seed=0, dtype=dtype)
    weights.save(path)
    assert_equal(LSTMWeights.load(path), weights)


def about(path):
    """Return the file's description of itself."""
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["fusedlstm"])


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "softsign", "elu", "linear"])
def test_options_of_version_1_save_as_version_1(activation, tmp_path):
    """Older versions of this package can read the file."""
    path = tmp_path / "w"
    LSTMWeights.random(2, 3, seed=0, cell_clip=1.0, activation=activation).save(path)
    found = about(path)
    assert found["version"] == 1
    assert found["options"] == {"cell_clip": 1.0, "proj_clip": None, "activation": activation}


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "softplus"},
        {"activation": ("elu", 0.5)},
        {"output_activation": "relu"},
        {"gate_activation": ("hard_sigmoid", 1 / 6, 0.5)},
        {"gate_clip": 0.0},
        {"coupled_gate": "forget"},
        {"gate_activation": "elu", "output_activation": ("elu", 0.5), "peephole": True, "gate_clip": 0.8},
    ],
)
def test_options_of_version_2_save_as_version_2(options, tmp_path):
    """Older versions refuse the file as newer, instead of reading it as a different cell."""
    check_version(2, options, tmp_path / "w")
    assert not {"zoneout_c", "zoneout_h"} & set(about(tmp_path / "w")["options"])


@pytest.mark.parametrize("options", [{"zoneout_c": 0.1}, {"zoneout_h": 0.5}, {"zoneout_c": 1, "coupled_gate": "input"}])
def test_zoneout_saves_as_version_3(options, tmp_path):
    check_version(3, options, tmp_path / "w")


def check_version(version, options, path):
    weights = LSTMWeights.random(2, 3, seed=0, **options)
    weights.save(path)
    assert about(path)["version"] == version
    loaded = LSTMWeights.load(path)
    assert_equal(loaded, weights)
    assert loaded.functions == weights.functions


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_transposed_and_sliced_arrays(dtype, tmp_path):
    """safetensors' own writer silently stores wrong values for such arrays."""
    rng = np.random.default_rng(0)
    columns, wide = rng.normal(size=(3, 16)).astype(dtype), rng.normal(size=(32, 9)).astype(dtype)
    weights = LSTMWeights(columns.T, wide[::2, 1:9:2], wide[:16, 3])
    weights.save(tmp_path / "w")
    loaded = LSTMWeights.load(tmp_path / "w")
    np.testing.assert_array_equal(loaded.weight_ih, columns.T)
    np.testing.assert_array_equal(loaded.weight_hh, wide[::2, 1:9:2])
    np.testing.assert_array_equal(loaded.bias, wide[:16, 3])


@pytest.mark.parametrize("metadata", [{}, {"about": 'a "text" \\ \n \x1f ü €'}])
def test_parts_are_what_safetensors_writes(metadata):
    """Byte for byte, with every dtype, shape and order of names."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}{k}": rng.normal(size=shape).astype(dtype)
        for k, dtype in enumerate([ml_dtypes.bfloat16, np.bool_, *"fidfeLIiHhbB"])  # NumPy's letters
        for name, shape in (("b", (3, 5)), ("a.ü", (0, 4)), ("c", ()), ("10.h", (7,)), ("9.h", (1,)))
    }
    nothing = [] if metadata else [{}]  # with metadata, safetensors 0.4 would write no JSON for it
    for some in (arrays, dict(reversed(arrays.items())), {"x": arrays["b0"]}, *nothing):
        content = b"".join(safetensors_parts.parts(some, metadata))
        assert content == to_bytes(some, metadata or None)
    turned = {"x": arrays["b0"].T, "y": arrays["b4"][::2, 1:].astype(">f8")}
    written = b"".join(safetensors_parts.parts(turned, metadata))
    assert written == to_bytes({"x": arrays["b0"].T.copy(), "y": arrays["b4"][::2, 1:].copy()}, metadata or None)


def test_special_values_keep_their_bits(tmp_path):
    values = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324, 1e-310, 1.0]).repeat(4).reshape(16, 2)
    values.view(np.uint64)[0, 0] |= np.uint64(12345)  # a NaN with a payload
    weights = LSTMWeights(values, np.ones((16, 4)), cell_clip=float("inf"))
    weights.save(tmp_path / "w")
    assert_equal(LSTMWeights.load(tmp_path / "w"), weights)


def test_version_1_still_loads():
    """The file was written by version 1, and must never be regenerated."""
    weights = LSTMWeights.load(VERSION_1)
    assert repr(weights) == (
        "LSTMWeights(I=3, N=4, P=2, bfloat16, bias, peephole, cell_clip=0.0, proj_clip=0.25, activation=elu)"
    )
    assert weights.weight_hr.astype(float).tolist() == V1_WEIGHT_HR


# Errors say what is wrong with a file.


def saved(tmp_path, dtype="float32"):
    path = tmp_path / "w.safetensors"
    everything(dtype).save(path)
    return path, path.read_bytes()


def edited(content, **changes):
    """Return the file's content with a changed description."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    about = {**json.loads(header["__metadata__"]["fusedlstm"]), **changes}
    header["__metadata__"]["fusedlstm"] = json.dumps(about)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@pytest.mark.parametrize("kept", [9, 100, 600, -1, -40])
def test_truncated_files_are_named(kept, tmp_path):
    path, content = saved(tmp_path)
    path.write_bytes(content[:kept])
    with pytest.raises(WeightsFileError, match=rf"{path.name} is truncated"):
        LSTMWeights.load(path)


def test_every_truncation_raises(tmp_path):
    path, content = saved(tmp_path)
    for kept in range(len(content)):
        path.write_bytes(content[:kept])
        with pytest.raises(WeightsFileError, match="truncated"):
            LSTMWeights.load(path)


def test_every_flipped_byte_raises(tmp_path):
    """One changed byte anywhere raises."""
    path, content = saved(tmp_path)
    weights = everything()
    unnoticed = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x15
        path.write_bytes(damaged)
        try:
            loaded = LSTMWeights.load(path)
        except WeightsFileError:
            continue
        unnoticed += 1
        assert_equal(loaded, weights)
    assert unnoticed == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"just some text, not a number in it", "is not a safetensors file"),
        (b"PK\x03\x04" + b"\0" * 64, "is not a safetensors file"),
        (pickle.dumps({"weight_ih": [1.0] * 100}), "is not a safetensors file"),
        (struct.pack("<Q", 9) + b'{"a": 1 }', "is damaged: its header"),
        (struct.pack("<Q", 3) + b"{[}", "is damaged: its header"),
        (struct.pack("<Q", 22) + b'{"__metadata__": null}', "is damaged: its header"),
        (struct.pack("<Q", 20) + b'{"__metadata__": 123}', "is damaged: its header"),
        (struct.pack("<Q", 29) + b'{"a": {"data_offsets": "xyz"}}'[:29], "is damaged: its header"),
        (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "is damaged: its header"),
        (b"short", "is truncated, or not a safetensors file: it has only 5 bytes"),
        (to_bytes({"weight": np.ones(3, np.float32)}), "of another program"),
        (to_bytes({"weight": np.ones(3, np.float32)}, {"format": "pt"}), "of another program"),
    ],
)
def test_files_of_other_programs_are_refused(content, message, tmp_path):
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(WeightsFileError, match=message):
        LSTMWeights.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, f"is newer than this fusedlstm: its version is 99, and this one reads up to {files.VERSION}"),
        ({"version": 0}, "is damaged: its version is 0"),
        ({"version": "1"}, "is damaged: its version is '1'"),
        ({"version": True}, "is damaged: its version is True"),
        ({"kind": "StackedWeights"}, "holds StackedWeights, not LSTMWeights"),
        ({"options": None}, "is damaged: its description lacks options"),
        ({"options": {"activation": "relu"}}, "is damaged: its checksum doesn't match"),
        ({"crc32": None}, "is damaged: its description lacks"),
        ({"crc32": 1}, "is damaged: its checksum doesn't match"),
    ],
)
def test_changed_descriptions_raise(changes, message, tmp_path):
    path, content = saved(tmp_path)
    path.write_bytes(edited(content, **changes))
    with pytest.raises(WeightsFileError, match=message):
        LSTMWeights.load(path)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({}, {"activation": "gelu"}, "is damaged: activation: wanted one of"),
        ({}, {"gate_activation": ["hard_sigmoid", 0.2]}, "is damaged: gate_activation: wanted"),
        ({}, {"zoneout": 0.1}, "is damaged: .*zoneout"),
        ({"bias": np.zeros(5, np.float32)}, {}, "is damaged: bias: wanted shape"),
        ({"bias": np.zeros(16, np.int32)}, {}, "is damaged: weights can't have the dtype I32"),
        ({"bais": np.zeros(16, np.float32)}, {}, "is damaged: .*bais"),
    ],
)
def test_intact_files_of_bad_weights(arrays, options, message, tmp_path):
    """The checksums agree, but the content is not valid as weights."""
    path = tmp_path / "w"
    files.save(path, "LSTMWeights", {**everything().arrays(), **arrays}, options)
    with pytest.raises(WeightsFileError, match=message):
        LSTMWeights.load(path)


def test_nothing_is_unpickled(tmp_path):
    class Boom:
        def __reduce__(self):
            return sys.exit, ("executed",)

    path = tmp_path / "w"
    path.write_bytes(pickle.dumps(Boom()))
    with pytest.raises(WeightsFileError):
        LSTMWeights.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        LSTMWeights.load(tmp_path / "absent")


# Replacement: the old file or the new one, never a part of one.


@pytest.mark.parametrize("step", ["fstat", "fsync", "replace"])
def test_a_crash_leaves_the_old_file(step, tmp_path, monkeypatch):
    path, content = saved(tmp_path)

    def crash(*_, **__):
        raise OSError("the disk is gone")

    monkeypatch.setattr(files.os, step, crash)
    with pytest.raises(OSError, match="the disk is gone"):
        everything("float64").save(path)
    monkeypatch.undo()
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [path.name], "the temporary file should be removed"


def test_readers_never_see_a_partial_file(tmp_path, monkeypatch):
    path, content = saved(tmp_path)
    seen = []
    replace = os.replace

    def look_then_replace(temporary, target):
        seen.append((path.read_bytes(), Path(temporary).parent == path.parent, LSTMWeights.load(temporary).dtype))
        replace(temporary, target)

    monkeypatch.setattr(files.os, "replace", look_then_replace)
    everything("float64").save(path)
    assert seen == [(content, True, np.float64)]
    assert LSTMWeights.load(path).dtype == np.float64


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        path, _ = saved(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX links")
def test_a_link_stays_a_link(tmp_path):
    path, _ = saved(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(path.name)
    everything("float64").save(link)
    assert link.is_symlink()
    assert LSTMWeights.load(path).dtype == np.float64


def test_save_into_a_missing_folder(tmp_path):
    """The error names the given path, not the temporary file."""
    with pytest.raises(FileNotFoundError) as caught:
        everything().save(tmp_path / "absent" / "w")
    assert caught.value.filename == str(tmp_path / "absent" / "w")


def test_the_longest_file_name(tmp_path):
    everything().save(tmp_path / ("w" * 255))
    assert_equal(LSTMWeights.load(tmp_path / ("w" * 255)), everything())


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
def test_a_pipe_stays_a_pipe(tmp_path):
    """A path that is not a regular file is written to, not replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        everything().save(pipe)
        content = os.read(reader, 1 << 16)
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    saved(tmp_path)
    assert content == (tmp_path / "w.safetensors").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="folders are synced only on POSIX")
def test_file_and_folder_are_synced(tmp_path, monkeypatch):
    """The file is synced before it replaces the old one, and the folder after."""
    synced = []
    monkeypatch.setattr(files.os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    everything().save(tmp_path / "w")
    assert synced == [False, True]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Python closes the file if `open` is interrupted
@pytest.mark.filterwarnings("ignore:unclosed scandir iterator:ResourceWarning")
def test_replacement_interrupted_at_any_moment(tmp_path):
    """Either the old file or the new one is there, and no other."""
    path, found = tmp_path / "file", set()

    def write():
        with replacing(path) as file:
            file.write(b"ne")
            file.write(b"w")

    for moment in itertools.count(1):
        path.write_bytes(b"old")
        if moments.interrupted(write, moment, also=(contextlib.contextmanager,)) is None:
            break
        found.add(path.read_bytes())
        assert os.listdir(tmp_path) == [path.name], moment
    assert moment > 20
    assert found == {b"old", b"new"}


def test_errors_while_replacing_name_their_file(tmp_path):
    """An error that names another file passes unchanged. One without a name, as of a full disk, gets the target's."""
    target = tmp_path / "file"
    for error, filename in (
        (OSError(5, "Input/output error", "inputs.npy"), "inputs.npy"),
        (OSError(28, "No space left on device"), str(target)),
    ):
        with pytest.raises(OSError) as caught, replacing(target) as file:
            file.write(b"part")
            raise error
        assert caught.value.filename == filename
        assert not os.listdir(tmp_path)
