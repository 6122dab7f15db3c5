"""A compiler compares the kernels' structs with their records in Python: members, types and offsets."""

import re
import shutil

import numpy as np
import pytest

from support.backends import needs_cuda
from support.emulated import needs_emulation
from support.places import KERNELS
from support.struct_check import complaints

pytestmark = [needs_cuda, needs_emulation]


@pytest.fixture(scope="module")
def kernels():
    """Return every instance that the tests compile."""
    import resources

    return [kernel for kernel, _ in resources.instances().values()]


def test_structs_match_their_records(kernels, tmp_path):
    assert complaints(KERNELS, kernels, tmp_path) == []


def test_every_struct_of_a_kernel_has_a_record(kernels):
    text = "".join(file.read_text(encoding="utf-8") for file in KERNELS.glob("*.cu"))
    structs = re.findall(r"struct (\w+Arguments)", text)
    assert text.count("__global__") == len(structs)
    assert {kernel.struct.record.__name__ for kernel in kernels} == set(structs)
    assert {dtype.name for kernel in kernels for dtype in kernel.struct.types.values()} == {
        *("float64", "float32"),
        *("float16", "bfloat16"),
    }


PLANTED = [
    ("clip.cu", "  i64 count;\n  double limit;\n", "  double limit;\n  i64 count;\n", "count is elsewhere"),
    ("clip.cu", "  i64 count;\n", "  i64 size;\n", "no member named 'count'"),
    (
        "clip.cu",
        "  double limit;\n",
        "  double limit;\n  i64 more;\n",
        "<float> has more or fewer members",
    ),
    ("clip.cu", "  T* h;", "  double* h;", r"h is not float\*"),
    ("clip.cu", "  i64 count;\n", "  u64 count;\n", "count is not i64"),
    ("add.cu", "  const T* more;", "  T* more;", r"more is not const float\*"),
    ("select.cu", "  Matrix<const T> value;", "  Matrix<T> value;", r"value\.at is not const float\*"),
    ("rows.cuh", "  Matrix<const T> x;", "  Matrix<const A> x;", r"rows\.x\.at is not const __half\*"),
    ("rows.cuh", "  Matrix<A> c_out;", "  Matrix<A> c_new;", "no member named 'c_out'"),
    ("rows.cuh", "  i64 tick; ", "  i64 tick, more; ", r"rows\.pool\.flips is elsewhere"),
    (
        "clip.cu",
        "const ClipArguments<T> a",
        "const Matrix<T> a",
        "lstm_clip<float> does not take ClipArg",
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "words"), PLANTED)
def test_planted_differences_are_found(kernels, tmp_path, file, old, new, words):
    folder = shutil.copytree(KERNELS, tmp_path / "kernels")
    text = (folder / file).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (folder / file).write_text(text.replace(old, new), encoding="utf-8")
    of_file = [k for k in kernels if k.file == ("step.cu" if file == "rows.cuh" else file)]
    dtype = np.dtype(np.float16 if file == "rows.cuh" else np.float32)
    some = next(kernel for kernel in of_file if kernel.struct.types == {"T": dtype})
    found = complaints(folder, [some], tmp_path)
    assert any(re.search(words, each) for each in found), found
