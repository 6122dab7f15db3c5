"""What a launch of an emulated kernel guarantees: views, arguments, canaries, the compiler's cache."""

import mmap
import os
import subprocess
import time

import ml_dtypes
import numpy as np
import pytest

from emulation import FORWARD, REVERSE, EmulationError, Module, compiler, memory, preempting, shuffled
from support import planted_faults
from support.emulated import FAULTY, needs_emulation
from support.places import KERNELS

pytestmark = needs_emulation

FLAGS = (f"-I{KERNELS}",)
COPY = "gather<NONE, {}, 1>"
TYPES = {
    "float": np.float32,
    "double": np.float64,
    "__half": np.float16,
    "__nv_bfloat16": ml_dtypes.bfloat16,
    "bool": np.bool_,
    "unsigned char": np.bool_,
    "int": np.int32,
}


@pytest.fixture(scope="module", params=["fast", "check"])
def copies(request):
    """Return a module of kernels that copy rows."""
    names = [COPY.format(name) for name in TYPES] + ["gather<WRITE_THROUGH_CONST, float, 1>"]
    return Module(FAULTY / "memory.cu", names, request.param, FLAGS)


def copy(module, source, to, kernel=None, stride=None, **options):
    """Copy rows, with the arrays' strides."""
    function = module.function(kernel or COPY.format("float"))
    strides = [np.int64(a.strides[0] // a.itemsize) for a in (source, to)]
    B, N = map(np.int64, source.shape)
    function((2,), (32,), (source, stride or strides[0], None, to, strides[1], B, N), **options)


def numbers(*shape, dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("name", TYPES)
def test_dtypes(copies, name):
    source = numbers(3, 5).astype(TYPES[name])
    to = np.zeros_like(source)
    copy(copies, source, to, COPY.format(name))
    np.testing.assert_array_equal(to, source)


def test_two_views_of_one_allocation(copies):
    whole = numbers(6, 20)
    before = whole.copy()
    copy(copies, whole[:3, 2:8], whole[1:4, 10:16], schedule=REVERSE)
    before[1:4, 10:16] = before[:3, 2:8]
    np.testing.assert_array_equal(whole, before)


def test_a_view_that_begins_inside_another(copies):
    """The rows interleave, but no element is in both views."""
    whole = numbers(4, 8)
    before = whole.copy()
    copy(copies, whole[:, :4], whole[:, 4:])
    np.testing.assert_array_equal(whole[:, 4:], before[:, :4])


def test_the_same_memory_twice(copies):
    """Every thread reads and writes its own elements in place."""
    whole = numbers(4, 8)
    before = whole.copy()
    copy(copies, whole[:, 1:6], whole[:, 1:6], schedule=shuffled(1))
    np.testing.assert_array_equal(whole, before)


def test_views_of_a_buffer_without_a_common_array(copies):
    """Two arrays over the same bytes are one allocation, though neither is a view of the other."""
    buffer = bytearray(numbers(4, 8).tobytes())
    source, to = (np.frombuffer(buffer, np.float32).reshape(4, 8) for _ in range(2))
    copy(copies, source[:2], to[2:])
    np.testing.assert_array_equal(to[2:], source[:2])
    with mmap.mmap(-1, 4096) as anonymous:
        to = np.frombuffer(anonymous, np.float32)[:32].reshape(4, 8)
        copy(copies, source, to)
        np.testing.assert_array_equal(to, source)
        del to


def test_writes_through_one_of_two_aliases(copies):
    """Memory of a const argument may be written through another argument that isn't const."""
    whole = numbers(2, 8)
    copy(copies, whole, whole, "gather<WRITE_THROUGH_CONST, float, 1>")
    np.testing.assert_array_equal(whole, numbers(2, 8))


@pytest.mark.parametrize(
    "view",
    [
        numbers(3, 4),
        numbers(3, 4).T,
        numbers(6, 8)[1:5, 2:7],
        numbers(6, 8)[::-2, ::-1],
        numbers(6, 8)[::2, ::3],
        numbers(6, 8)[:, 3],
        numbers(4, 5, 6)[1:, 2:, 3:].transpose(2, 0, 1),
        np.broadcast_to(numbers(5), (3, 5)),
        numbers(4, 1)[:, None, :],
        numbers(4, 5)[:, :0],
        np.array(1, np.float32),
    ],
    ids=lambda view: f"{view.shape}-{view.strides}",
)
def test_extents_are_the_bytes_of_a_view(view):
    first = [view.ctypes.data + sum(np.multiply(i, view.strides)) for i in np.ndindex(view.shape)]
    wanted = {int(address) + byte for address in first for byte in range(view.itemsize)}
    rows = [(e.first + k * e.stride, e.row_bytes) for e in memory.extents(view) for k in range(e.count)]
    assert {address + byte for address, length in rows for byte in range(length)} == wanted
    assert sum(length for _, length in rows) == len(wanted)


@pytest.fixture(scope="module")
def checked():
    return Module(FAULTY / "memory.cu", [COPY.format("float")], "check", FLAGS)


@pytest.mark.parametrize(
    ("stride", "where"),
    [
        (17, "ends 4 bytes after the end of row 2"),
        (15, "begins 8 bytes before row 2"),
        (-16, "begins 128 bytes before row 0"),
    ],
)
def test_gaps_are_faults(checked, stride, where):
    """Memory between a view's rows, or before the view, is out of bounds."""
    view = numbers(6, 16)[2:, 4:8]
    to = np.zeros((4, 4), np.float32)
    with pytest.raises(EmulationError, match=f"out of bounds .* {where} of 'from'") as raised:
        copy(checked, view, to, stride=np.int64(stride))
    assert raised.value.argument == "from"


def test_a_write_into_a_gap_is_a_fault(checked):
    whole = numbers(4, 16)
    to = whole[:, 4:8]
    wider = np.lib.stride_tricks.as_strided(to, (3, 5), to.strides)
    function = checked.function(COPY.format("float"))
    args = (wider, np.int64(16), None, to, np.int64(16), np.int64(3), np.int64(5))
    with pytest.raises(EmulationError, match=r"write through const .* 'from'"):
        function((1,), (32,), args)
    args = (numbers(3, 5), np.int64(5), *args[2:])
    with pytest.raises(EmulationError, match="4-byte write that ends 4 bytes after the end of row 0 of 'to'"):
        function((1,), (32,), args)


def test_canaries():
    """Without checks, bytes around arguments and between their rows show writes outside."""
    function = Module(FAULTY / "memory.cu", [COPY.format("float")], "fast", FLAGS).function(COPY.format("float"))
    sizes = np.int64(5), np.int64(1), np.int64(5)
    for to in (np.zeros(4, np.float32), np.zeros((2, 8), np.float32)[:, :4]):
        with pytest.raises(EmulationError, match=r"canary: .* 'to'"):
            function((1,), (32,), (numbers(1, 5), np.int64(5), None, to, *sizes))


@pytest.mark.parametrize(
    ("number", "value", "error", "message"),
    [
        (1, 8, TypeError, "from_stride must be a NumPy scalar of int64, not int"),
        (1, np.int32(8), TypeError, "from_stride must be a NumPy scalar of int64, not int32"),
        (1, np.float64(8), TypeError, "from_stride must be a NumPy scalar of int64"),
        (1, np.array([8]), TypeError, "from_stride must be a NumPy scalar of int64, not ndarray"),
        (0, np.zeros((2, 8), np.int32), TypeError, "from must be an array of float32, or None, not ndarray of int32"),
        (0, np.uintp(16), TypeError, "from must be an array of float32"),
        (0, [0.0], TypeError, "from must be an array of float32"),
        (3, np.broadcast_to(np.float32(0), (2, 8)), ValueError, "to is read-only, and the kernel may write to it"),
    ],
)
def test_wrong_arguments_are_refused(checked, number, value, error, message):
    eight = np.int64(8)
    args = [numbers(2, 8), eight, np.uintp(0), np.zeros((2, 8), np.float32), eight, np.int64(2), eight]
    args[number] = value
    with pytest.raises(error, match=message):
        checked.function(COPY.format("float"))((1,), (32,), args)
    with pytest.raises(ValueError, match="takes 7 arguments, not 6"):
        checked.function(COPY.format("float"))((1,), (32,), args[:6])


@pytest.fixture(scope="module")
def scaled():
    return Module(FAULTY / "structs.cu", ["scale<SOUND>"], "check", FLAGS).function("scale<SOUND>")


def of_struct(launch, **changes):
    """Return the launch's argument with other bytes, or with changes to the named pointer."""
    (value,) = launch.args
    if "data" in changes:
        return value._replace(data=changes["data"](value.data))
    (name, change), *_ = changes.items()
    return value._replace(pointers=[p._replace(**change) if p.name == name else p for p in value.pointers])


def test_wrong_structs_are_refused(scaled, checked):
    """Refuse a struct of another size, with an address that isn't its array's, or of another kernel."""
    launch = planted_faults.scale()

    def call(value, function=scaled, rest=()):
        function((1,), (32,), (value, *rest))

    call(of_struct(launch, data=bytes))
    with pytest.raises(TypeError, match=r"scale<SOUND>: a must be a struct of 56 bytes, not a struct of 48 bytes"):
        call(of_struct(launch, data=lambda data: data[8:]))
    with pytest.raises(TypeError, match="a must be a struct of 56 bytes, not ndarray of float32"):
        call(numbers(2, 8))
    for change in ({"array": numbers(3, 8)}, {"array": None}):
        with pytest.raises(ValueError, match="to must be the address of its array, or 0 without one"):
            call(of_struct(launch, to=change))
    read_only = np.broadcast_to(np.float32(0), (3, 8))
    pointer = {"offset": 48, "array": read_only}
    data = launch.args[0].data
    value = launch.args[0]._replace(data=data[:48] + np.uint64(read_only.ctypes.data).tobytes())
    with pytest.raises(ValueError, match="to is read-only, and the kernel may write to it"):
        call(value._replace(pointers=[value.pointers[1]._replace(**pointer)]))
    with pytest.raises(TypeError, match="from must be an array of float32, or None, not a struct of 56 bytes"):
        call(launch.args[0], checked.function(COPY.format("float")), rest=[None] * 6)


def test_canaries_around_a_structs_array():
    function = Module(FAULTY / "structs.cu", ["scale<SOUND>"], "fast", FLAGS).function("scale<SOUND>")
    launch = planted_faults.scale()
    function((1,), (32,), launch.args)
    with pytest.raises(EmulationError, match=r"canary: .* 'to'"):
        function((1,), (32,), (of_struct(launch, to={"array": launch.argument("to")[:2]}),))


@pytest.mark.parametrize(("grid", "block"), [((0,), (32,)), ((1,), (1025,)), ((1,), (32, 33)), ((1, 1, 1, 1), (1,))])
def test_wrong_sizes_are_refused(checked, grid, block):
    args = None, np.int64(0), None, None, np.int64(0), np.int64(0), np.int64(0)
    with pytest.raises(ValueError, match="block"):
        checked.function(COPY.format("float"))(grid, block, args)


def test_compiler_errors_are_reported():
    with pytest.raises(EmulationError, match=r"does not compile: (?s:.*)no_such_kernel"):
        Module(FAULTY / "memory.cu", ["no_such_kernel<1>"], flags=FLAGS)
    with pytest.raises(ValueError, match="mode must be one of fast, check, not 'slow'"):
        Module(FAULTY / "memory.cu", [COPY.format("float")], "slow", FLAGS)


def test_an_edited_header_is_compiled_again(tmp_path):
    (tmp_path / "number.cuh").write_text("static const int NUMBER = 1;\n")
    (tmp_path / "fill.cu").write_text('#include "number.cuh"\n__global__ void fill(int* to) { *to = NUMBER; }\n')
    got = np.zeros(1, np.int32)
    for number in (1, 2):
        (tmp_path / "number.cuh").write_text(f"static const int NUMBER = {number};\n")
        Module(tmp_path / "fill.cu", ["fill"]).function("fill")((1,), (1,), (got,))
        assert got[0] == number
    shared = tmp_path / "shared.cu"
    shared.write_text("__global__ void fill(int* to) { __shared__ int one; *to = one; }\n")
    with pytest.raises(EmulationError, match="SHARED_ARRAY"):
        Module(shared, ["fill"])


def test_the_oldest_libraries_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("EMULATION_CACHE", str(tmp_path))
    for age in (1000, 2000, 3000, 60):
        file = tmp_path / f"{age}.so"
        file.write_bytes(bytes(100))
        os.utime(file, (time.time() - age,) * 2)
    compiler.remove_oldest(250)
    assert sorted(os.listdir(tmp_path)) == ["1000.so", "60.so"]
    compiler.remove_oldest(0)
    assert os.listdir(tmp_path) == ["60.so"], "recent libraries should stay"


def test_using_a_library_makes_it_recent():
    kernel = FAULTY / "memory.cu", [COPY.format("float")], "fast", FLAGS
    library = compiler.build(*kernel)
    os.utime(library, (0, 0))
    assert compiler.build(*kernel) == library
    assert library.stat().st_mtime > time.time() - 60


@pytest.mark.parametrize("mode", ["fast", "check"])
def test_the_compiled_header_is_used(mode, monkeypatch):
    said, real = [], subprocess.run

    def run(command, **options):
        done = real([*command, "-H"], **options)  # prints the headers that are read, with "!" before compiled ones
        said.extend(done.stderr.splitlines())
        return done

    monkeypatch.setattr(compiler.subprocess, "run", run)
    flags = *FLAGS, "-DINDEX=int", f"-DNOW={time.time_ns()}"  # so that it isn't cached yet
    compiler.build(FAULTY / "memory.cu", [COPY.format("float")], mode, flags)
    used = [line for line in said if line.startswith("!")]
    assert len(used) == 1
    assert used[0].endswith("cuda_on_cpu.h.gch")


TICKETS = """
__global__ void take_tickets(unsigned* ticket, unsigned* taken) {
  taken[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(ticket, 1u);
}
"""


def test_schedules(tmp_path):
    """Threads and blocks take turns as the schedule says, and a seed gives the same turns again."""
    (tmp_path / "tickets.cu").write_text(TICKETS)
    function = Module(tmp_path / "tickets.cu", ["take_tickets"], "check").function("take_tickets")

    def tickets(schedule):
        taken = np.zeros(128, np.uint32)
        report = function((4,), (32,), (np.zeros(1, np.uint32), taken), schedule=schedule)
        return taken.tolist(), report.thread_switches

    in_order = list(range(128))
    assert tickets(FORWARD) == (in_order, 128)
    assert tickets(REVERSE) == (in_order[::-1], 128)
    assert sorted(tickets(shuffled(1))[0]) == in_order
    assert tickets(shuffled(1)) == tickets(shuffled(1)) != tickets(shuffled(2))
    assert tickets(preempting(1)) == tickets(preempting(1)) != tickets(preempting(2))
    assert tickets(preempting(1))[1] > tickets(shuffled(1))[1] == 128
