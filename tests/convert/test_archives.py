"""Files of named arrays: .npz and .safetensors, whichever program wrote them."""

import io
import json
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from fusedlstm import WeightsFileError
from fusedlstm.convert import archives
from fusedlstm.convert.archives import open_archive

DTYPES = ["float64", "float32", "float16", "int64", "int32", "uint8", "bool"]


def arrays():
    rng = np.random.default_rng(0)
    return {f"a/{dtype}": (rng.normal(size=(2, 3)) * 9).astype(dtype) for dtype in DTYPES} | {"none": np.zeros((0, 3))}


def written(path, kind, arrays):
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "compressed":
        np.savez_compressed(path, **arrays)
    else:
        save_file(arrays, path)
    return path


@pytest.mark.parametrize("kind", ["npz", "compressed", "safetensors"])
def test_arrays(kind, tmp_path):
    path = written(tmp_path / "w.npz", kind, arrays())  # the reader goes by content, not by suffix
    archive = open_archive(path)
    assert sorted(archive) == sorted(arrays())
    assert len(archive) == len(arrays())
    assert "a/float32" in archive
    assert "b" not in archive
    assert archive.get("b") is None
    for name, array in arrays().items():
        assert archive[name].dtype == array.dtype
        np.testing.assert_array_equal(archive[name], array)


def test_order_and_bfloat16(tmp_path):
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(open_archive(written(tmp_path / "f.npz", "npz", {"f": fortran}))["f"], fortran)
    narrow = np.arange(3).astype(ml_dtypes.bfloat16)
    path = written(tmp_path / "n", "safetensors", {"n": narrow})
    assert open_archive(path)["n"].dtype == narrow.dtype
    np.testing.assert_array_equal(open_archive(path)["n"], narrow)


def npy(header, data=b"\0" * 24, magic=b"\x93NUMPY\x01\x00"):
    header = header.encode() + b"\n"
    return magic + struct.pack("<H", len(header)) + header + data


def zipped(content, name="a.npy"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def header(descr="'<f4'", shape="(2, 3)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(header(shape="(2, 4)")), r"float32 of shape \(2, 4\) claims 32 bytes, not 24"),
        (npy(header(shape="(1 << 40, 1 << 40)")), "a: "),
        (npy(header(shape=f"({2**40}, {2**40})")), "bytes, not 24"),
        (npy(header(shape="(-2, -3)")), r"shape \(-2, -3\)"),
        (npy(header(descr="'|O'"), b"\x80\x04N."), "Python objects, which are never unpickled"),
        (npy(header(descr="'<V0'"), b""), "elements of 0 bytes"),
        (npy(header(descr="[('f', '|O')]"), b"\x80\x04N."), "Python objects"),
        (npy("{" * 10_000), "a: "),
        (npy("exit()"), "a: "),
        (npy("-" * 9000 + "1"), "a: "),
        (npy(header(), magic=b"\x93NUMPY\x09\x00"), "a: "),
        (b"\x93NUM", "a: "),
    ],
)
def test_damaged_members(content, message, tmp_path):
    (tmp_path / "w.npz").write_bytes(zipped(content))
    archive = open_archive(tmp_path / "w.npz")
    with pytest.raises(WeightsFileError, match=message) as caught:
        archive["a"]
    assert str(tmp_path / "w.npz") in str(caught.value)


def test_member_with_a_wrong_size_raises(tmp_path):
    content = bytearray(zipped(npy(header())))
    size = len(npy(header()))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + offset
        assert struct.unpack_from("<I", content, at) == (size,)
        struct.pack_into("<I", content, at, size + 8)
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(WeightsFileError, match="damaged: a"):
        open_archive(tmp_path / "w.npz")["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 and so on", "damaged, or not a .npz file"),
        (struct.pack("<Q", 99) + b"{}", "damaged, or not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "neither"),
        (b"\x89HDF\r\n\x1a\n0000", "is an HDF5 file, such as Keras's"),
    ],
)
def test_other_files(content, message, tmp_path):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightsFileError, match=message):
        open_archive(tmp_path / "w")


def test_unreadable_dtype_spares_other_arrays(tmp_path):
    entries = {
        "eight": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]},
        "a": {"dtype": "I16", "shape": [1], "data_offsets": [2, 4]},
    }
    text = json.dumps(entries).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(text)) + text + b"\1\2\3\0")
    archive = open_archive(tmp_path / "w")
    assert archive["a"] == 3
    with pytest.raises(WeightsFileError, match="eight has the dtype F8_E4M3"):
        archive["eight"]


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_archive(tmp_path / "w")


def test_members_are_bounded_together(tmp_path, monkeypatch):
    """Each array is small enough, but together they are much larger than the file."""
    monkeypatch.setattr(archives, "_ALWAYS_INFLATED", 1 << 24)
    path = tmp_path / "w.npz"
    np.savez_compressed(path, **{f"a{k}": np.zeros(1 << 21, "f4") for k in range(20)})
    archive = open_archive(path)
    for _ in range(5):
        assert archive["a0"].size == 1 << 21, "an array should count once"
    with pytest.raises(
        WeightsFileError, match=r"a1: it claims 8388736 bytes, 16777472 with the arrays read before; at most"
    ):
        for name in archive:
            archive[name]


# Valid files are read, however well they compress.


def test_zeros_compressed_a_thousandfold(tmp_path):
    """New biases, pruned matrices and an optimiser's moments are zeros: 300 MB compress to 300 KB."""
    path = tmp_path / "w.npz"
    np.savez_compressed(path, moments=np.zeros((5000, 5000, 3), "f4"), bias=np.zeros(1 << 20))
    assert path.stat().st_size * 900 < 5000 * 5000 * 3 * 4
    archive = open_archive(path)
    assert archive["moments"].shape == (5000, 5000, 3)
    assert not archive["bias"].any()


def test_pruned_weights(tmp_path):
    weights = np.random.default_rng(0).normal(size=(4000, 1000)).astype("f4")
    weights[np.random.default_rng(1).random(weights.shape) < 0.999] = 0
    np.savez_compressed(tmp_path / "w.npz", weight_ih_l0=weights)
    np.testing.assert_array_equal(open_archive(tmp_path / "w.npz")["weight_ih_l0"], weights)


@pytest.mark.parametrize("kind", ["npz", "compressed", "safetensors"])
def test_many_arrays_of_long_names(kind, tmp_path):
    many = {f"{'encoder/' * 40}{k}/kernel": np.full(3, k, "f4") for k in range(10_000)}
    archive = open_archive(written(tmp_path / "w.npz", kind, many))
    assert len(archive) == 10_000
    for k, (name, array) in enumerate(many.items()):
        if k % 97 == 0:
            np.testing.assert_array_equal(archive[name], array)


def test_weights_of_256_megabytes(tmp_path):
    """Read 256 MB of noise."""
    block = np.random.default_rng(0).bytes(1 << 20)
    weights = np.frombuffer(block * 256, np.float16)
    np.savez(tmp_path / "w.npz", w=weights)
    assert open_archive(tmp_path / "w.npz")["w"].tobytes() == weights.tobytes()


# Claimed sizes are not allocated.


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (600 << 20, "but has a different number|Bad CRC"),
        (1 << 31, r"claims 2147483648 bytes.*dict\(numpy\.load"),
        ((1 << 32) - 2, "claims 4294967294 bytes"),
    ],
)
def test_member_claims_more_than_it_has(size, message, tmp_path):
    content = bytearray(zipped(npy(header(shape=f"({size // 4},)"))))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + offset, size)
    (tmp_path / "w.npz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(WeightsFileError, match=rf"w\.npz is damaged: a: .*({message})"):
        open_archive(tmp_path / "w.npz")["a"]
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_members_are_listed_once(tmp_path, monkeypatch):
    """Listing takes time proportional to the number of members."""
    path = written(tmp_path / "w.npz", "npz", arrays())
    opened = []
    real = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda *args: opened.append(args) or real(*args))
    archive = open_archive(path)
    for name in archive:
        archive[name]
    assert len(opened) == 1


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_names_over_4096_characters_raise(kind, tmp_path):
    path = written(tmp_path / "w.npz", kind, {"a" * 4096: np.zeros(2)})
    assert len(open_archive(path)) == 1
    path = written(tmp_path / "w.npz", kind, {"a" * 4097: np.zeros(2)})
    with pytest.raises(
        WeightsFileError, match=r"w.npz has the name 'a{40}'\.\.\., of 4097 characters: at most 4096 are"
    ):
        open_archive(path)
