"""Test that one place turns any error of a reader into a WeightsFileError that names the file."""

import ast
import builtins
import errno
import gc
import io
import itertools
import json
import lzma
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTMCell, LSTMWeights, StackedWeights, StatePool, WeightsFileError, files, pool_files
from fusedlstm.cli.run_inputs import open_inputs, read_integers
from fusedlstm.convert.archives import open_archive
from fusedlstm.convert.recognise import recognise
from fusedlstm.stacked import load_weights

from support.places import ROOT

PACKAGE = ROOT / "fusedlstm"


class MuteError(Exception):
    """An error whose message can't be read."""

    def __str__(self):
        raise RuntimeError("no text")


class OwnError(Exception):
    """A library's own error."""


class PanicException(BaseException):
    """An error like PyO3's, from libraries in Rust, which is not an Exception."""


def builtin_exceptions():
    kinds = [kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    kept = (ImportError, MemoryError, OSError, UnicodeError, BaseExceptionGroup)
    return sorted({kind for kind in kinds if not issubclass(kind, kept)}, key=lambda kind: kind.__name__)


ERRORS = [
    *(kind("some text") for kind in builtin_exceptions()),
    *(kind() for kind in (ValueError, KeyError, AssertionError, RecursionError)),
    *(OwnError("own"), MuteError(), PanicException("panicked"), OSError("of a library, without a number")),
    *(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), ExceptionGroup("several", [ValueError("one")])),
    *(struct.error("s"), zlib.error("z"), lzma.LZMAError("l"), zipfile.BadZipFile("b"), io.UnsupportedOperation("u")),
    *(OSError(number, os.strerror(number)) for number in (errno.EINVAL, errno.EOVERFLOW, errno.EFBIG)),
    ValueError("of several\n  lines\x0bof text" + "x" * 5000),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_reading_converts_any_exception(error):
    with pytest.raises(WeightsFileError) as caught, files.reading(b"folder/w.npz", " is damaged"):
        raise error
    assert caught.value.__cause__ is error
    text = str(caught.value)
    assert text.startswith("folder/w.npz is damaged: ")
    assert len(text) > len("folder/w.npz is damaged: ")
    assert len(text) < 600
    assert text == " ".join(text.split()), "the message should be one line"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, ImportError])
def test_reading_lets_other_errors_propagate(kind):
    error = kind("as it is")
    with pytest.raises(kind) as caught, files.reading("w"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ESTALE])
def test_system_errors_name_the_path(number):
    with pytest.raises(OSError, match="w.npz") as caught, files.reading("w.npz"):
        raise OSError(number, "text")
    assert not isinstance(caught.value, WeightsFileError)
    assert (caught.value.errno, caught.value.filename) == (number, "w.npz")
    assert type(caught.value) is type(OSError(number, "text"))


def test_reading_names_a_path_once():
    with pytest.raises(WeightsFileError) as caught, files.reading("w"), files.reading("w"):
        raise ValueError("w: wanted a valid file")
    assert str(caught.value) == "w: wanted a valid file"
    with pytest.raises(WeightsFileError) as caught, files.reading("w"), files.blaming("its part"):
        raise ValueError("bad")
    assert str(caught.value) == "w: its part: bad"


def test_reading_a_mapping_keeps_its_errors():
    with pytest.raises(KeyError), files.reading({"a": 1}):
        raise KeyError("b")


# Every reader, with any error in any call of a library.


def read_inputs(path):
    with open_inputs(str(path), 2, anywhere=False, folder=None) as inputs:
        return inputs.read(0, inputs.T)


def made(folder):
    """Return each reader and a file for it."""
    LSTMWeights.random(2, 3, seed=0).save(folder / "cell")
    StackedWeights.random(2, 3, 2, seed=0).save(folder / "layers")
    pool = StatePool(LSTMCell(LSTMWeights.random(2, 3, seed=0), backend="numpy"), 4)
    pool.allocate(2)
    pool.save(folder / "pool")
    form = pool_files.StateSizes.of(pool._cell._layers_of_weights)
    array = np.arange(6.0).reshape(1, 3, 2)
    arrays = {"weight_ih_l0": np.zeros((12, 2)), "weight_hh_l0": np.zeros((12, 3))}
    np.savez(folder / "stored.npz", **arrays)
    np.savez_compressed(folder / "deflated.npz", **arrays)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(folder / f"{method}.npz", "w", method) as archive:
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr("a.npy", content.getvalue())
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "other.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    np.save(folder / "inputs.npy", array)
    np.save(folder / "lengths.npy", np.array([1, 1, 0]))
    return {
        "cell": LSTMWeights.load,
        "layers": load_weights,
        "pool": lambda path: pool_files.load(path, form, 4),
        "stored.npz": lambda path: dict(open_archive(path)),
        "deflated.npz": recognise,
        "12.npz": lambda path: dict(open_archive(path)),
        "14.npz": lambda path: dict(open_archive(path)),
        "other.safetensors": lambda path: dict(open_archive(path)),
        "inputs.npy": read_inputs,
        "lengths.npy": lambda path: read_integers(str(path), 3),
    }


LIBRARIES = ("json", "zipfile", "numpy", "safetensors", "lzma", "bz2", "ast", "struct", "tokenize")
IN_C = ("zlib", "_bz2", "_lzma", "_json", "_struct", "safetensors._safetensors_rust", "numpy", "_io", "binascii")


def is_finalising(frame):
    """Return whether this is in a `__del__`, where exceptions are lost."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def is_of_library(frame, event, argument):
    if event == "call":
        parts = Path(frame.f_code.co_filename).parts
        return any(name in parts or f"{name}.py" in parts for name in LIBRARIES)
    if event != "c_call":
        return False
    owner = getattr(argument, "__module__", None) or type(getattr(argument, "__self__", None)).__module__
    return owner in IN_C and argument.__name__ not in ("close", "__exit__", "flush")


def with_error_at(k, error, read, path):
    """Read, raising an error in call number k of a library, and return the number of calls."""
    calls = itertools.count(1)
    last = 0

    def profile(frame, event, argument):
        nonlocal last
        if is_of_library(frame, event, argument) and not is_finalising(frame):
            last = next(calls)
            if last == k:
                sys.setprofile(None)
                raise type(error)(*error.args)

    gc.disable()
    sys.setprofile(profile)
    try:
        kept = read(path)
    finally:
        sys.setprofile(None)
        gc.enable()
    del kept
    return last


READERS = (
    *("cell", "layers", "pool", "stored.npz", "deflated.npz", "12.npz", "14.npz"),
    *("other.safetensors", "inputs.npy", "lengths.npy"),
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    found = {name: (folder / name, read) for name, read in made(folder).items()}
    assert found.keys() == set(READERS)
    for path, read in found.values():
        read(path)  # import everything first
    return found


# If a library is interrupted while it opens a file, it may leave the file to the garbage collector.
LEFT_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@LEFT_OPEN
@pytest.mark.parametrize("name", READERS)
def test_any_library_call_may_raise(name, readers):
    path, read = readers[name]
    count = with_error_at(0, None, read, path)
    assert count > 3, "the reader should call libraries"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        error = ERRORS[rng.integers(len(ERRORS))]
        try:
            with_error_at(int(rng.integers(1, count + 1)), error, read, path)
        except WeightsFileError as caught:
            refused += str(path) in str(caught)
        except BaseException as caught:
            pytest.fail(f"{caught!r} of {error!r}")
    assert refused > 60, "libraries should swallow few errors"


@LEFT_OPEN
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(errno.EIO, "unreadable")], ids=repr)
def test_interrupts_and_memory_errors_propagate(name, error, readers):
    path, read = readers[name]
    count = with_error_at(0, None, read, path)
    outcomes = set()
    for k in np.random.default_rng(0).integers(1, count + 1, 20):
        try:
            with_error_at(int(k), error, read, path)
        except BaseException as caught:
            outcomes.add((type(caught), getattr(caught, "errno", None), getattr(caught, "filename", None)))
    # Libraries may report these as damage: zipfile if it can't read the end, NumPy's parser if memory runs out.
    expected = (OSError, errno.EIO, str(path)) if isinstance(error, OSError) else (type(error), None, None)
    assert expected in outcomes
    assert outcomes <= {expected, (WeightsFileError, None, None)}
    assert len(outcomes) == 1 or not isinstance(error, KeyboardInterrupt)


# Content with each kind of damage.


def in_zip(content, method=zipfile.ZIP_STORED, name="a.npy"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return bytearray(file.getvalue())


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def damaged_member(method):
    data = in_zip(npy(np.zeros((16, 3), "f4")), method)
    at = data.index(b"a.npy") + 5 + 9
    data[at : at + 20] = b"\xff" * 20
    return bytes(data)


def with_field(offset, value, size=2):
    """Return a zip file with one field changed in both of its member's headers. The offset is in the local header."""
    data = in_zip(npy(np.zeros(3)))
    for signature, more in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = data.index(signature) + offset + more
        data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data)


def claimed_dictionary(size):
    data = in_zip(npy(np.zeros(3)), zipfile.ZIP_LZMA)
    at = data.index(b"a.npy") + 5 + 5
    data[at : at + 4] = size.to_bytes(4, "little")
    return bytes(data)


def safetensors(header, data=b"abcd"):
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(offsets="[0, 4]", shape="[1]", dtype='"F32"', name='"a"'):
    return safetensors(f'{{{name}: {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}}}')


ZIPS = {
    "deflate": damaged_member(zipfile.ZIP_DEFLATED),
    "bzip2": damaged_member(zipfile.ZIP_BZIP2),
    "lzma": damaged_member(zipfile.ZIP_LZMA),
    "an LZMA dictionary of 4 GB": claimed_dictionary(2**32 - 1),
    "encrypted": with_field(6, 1),
    "strongly encrypted": with_field(6, 0x41),
    "patched data": with_field(6, 0x20),
    "method 93, zstd": with_field(8, 93),
    "method 99": with_field(8, 99),
    "another checksum": with_field(14, 1, 4),
    "a name that is not UTF-8": with_field(6, 0x800).replace(b"a.npy", b"\xff.npy"),
    "two of one name": bytes(in_zip(npy(np.zeros(3)))) + b"",
    "a version of the future": with_field(4, 999),
}
OFFSETS = ("[0, 1e999]", "[0, -Infinity]", "[0, NaN]", "[0, -4]", "[-4, 0]", "[0, 4.5]", "[0, true]", '[0, "4"]')
MORE_OFFSETS = ("[0, null]", "[0]", "[]", "{}", "7", "[0, 4, 8]", "[4, 0]", f"[0, {10**30}]", f"[0, {'9' * 5000}]")
SHAPES = ('["1"]', "[true]", "[1.0]", "[-1]", "[2]", "null", f"[{2**63}, {2**63}]", f"[{10**30}]", "[[1]]", '"1"')
TENSORS = {
    **{f"offsets {offsets[:20]}": entry(offsets) for offsets in (*OFFSETS, *MORE_OFFSETS)},
    **{f"shape {shape[:20]}": entry(shape=shape) for shape in SHAPES},
    **{f"dtype {dtype}": entry(dtype=dtype) for dtype in ("1", "null", '"G7"', "[]", '"f32"')},
    "a name that is not UTF-8": safetensors(entry()[8:-4].replace(b'"a"', b'"\xff"')),
    "half a surrogate": entry(name='"\\ud800"'),
    "a key twice": safetensors(entry()[8:-5] + b"," + entry(offsets="[4, 8]")[9:-4], b"abcdefgh"),
    "nested": safetensors('{"a":' * 20_000 + "1" + "}" * 20_000),
    "nested arrays": safetensors('{"a":' + "[" * 20_000 + "]" * 20_000 + "}"),
    "metadata that is a list": safetensors('{"__metadata__": [1]}'),
    "metadata of numbers": safetensors('{"__metadata__": {"a": 1}, ' + entry()[9:-4].decode()),
    "a number": safetensors('{"a": 1}'),
    "null": safetensors('{"a": null}'),
    "UTF-16": safetensors("{}".encode("utf-16")),
    "a header of 2^63": struct.pack("<Q", 2**63) + b"{}" + bytes(100),
    "a header of -1": struct.pack("<q", -1) + b"{}" + bytes(100),
}


def read_all(path):
    return dict(open_archive(path))


@pytest.mark.parametrize("what", ZIPS)
def test_damaged_zip_files_are_refused(what, tmp_path):
    (tmp_path / "w.npz").write_bytes(ZIPS[what])
    if what == "two of one name":
        with zipfile.ZipFile(tmp_path / "w.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", npy(np.ones(3)))
    with pytest.raises(WeightsFileError, match=r"w\.npz "):
        read_all(tmp_path / "w.npz")
    for read in (recognise, LSTMWeights.load, load_weights):
        with pytest.raises(WeightsFileError, match=r"w\.npz "):
            read(tmp_path / "w.npz")


def test_zip_members_of_all_methods_are_read(tmp_path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        (tmp_path / "w.npz").write_bytes(in_zip(npy(np.arange(300.0)), method))
        np.testing.assert_array_equal(read_all(tmp_path / "w.npz")["a"], np.arange(300.0))


@pytest.mark.parametrize("what", TENSORS)
def test_damaged_headers_are_refused(what, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(TENSORS[what])
    pool = StatePool(LSTMCell(LSTMWeights.random(1, 1, seed=0), backend="numpy"), 1)
    for read in (read_all, recognise, LSTMWeights.load, StackedWeights.load, load_weights, pool.load):
        with pytest.raises(WeightsFileError, match=r"w\.safetensors"):
            read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**70), 2**70) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["version", "kind", "options", "crc32", "layers", "bidirectional", "residual"])


@settings(max_examples=150)
@given(about=JSON | st.dictionaries(KEYS, JSON | st.sampled_from([1, 2, "LSTMWeights", "StackedWeights", {}])))
def test_random_descriptions_are_refused(tmp_path_factory, about):
    path = tmp_path_factory.mktemp("about") / "w"
    header = json.dumps({"__metadata__": {"fusedlstm": json.dumps(about)}})
    path.write_bytes(safetensors(header, b""))
    for read in (LSTMWeights.load, StackedWeights.load, load_weights):
        with pytest.raises(WeightsFileError):
            read(path)


def test_endless_file_is_not_read():
    if not os.path.exists("/dev/zero"):
        pytest.skip("there is no /dev/zero")
    for read in (LSTMWeights.load, load_weights, recognise, open_archive):
        with pytest.raises(WeightsFileError, match="/dev/zero"):
            read("/dev/zero")


# Only one place turns exceptions into WeightsFileError.


def handlers():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "files.py" and path.parent.name != "keras":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ExceptHandler) and node.type is not None:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def makes_a_file_error(handler):
    """Return whether a handler raises WeightsFileError from the exception that it caught."""
    return any(
        isinstance(node, ast.Raise) and "WeightsFileError" in ast.dump(node.exc or node) and handler.name is not None
        for node in ast.walk(handler)
    )


def is_a_list(kind):
    """Return whether an except clause lists many exceptions, or names a constant that does."""
    if isinstance(kind, ast.Tuple):
        return len(kind.elts) > 4 or any(isinstance(one, ast.Starred) for one in kind.elts)
    return isinstance(kind, ast.Name) and kind.id.isupper()


def test_readers_keep_no_lists_of_exceptions():
    wrong = [
        place
        for place, handler in handlers()
        if (is_a_list(handler.type) and not place.startswith("cli/main.py"))
        or (isinstance(handler.type, ast.Tuple) and makes_a_file_error(handler))
    ]
    assert not wrong, "use files.reading"
