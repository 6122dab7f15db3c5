"""nvmath.bindings.cublasLt: matmul with raw descriptors and pointers, as cuBLASLt reads them."""

import ctypes
import hashlib
import itertools
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from . import arrays, graphs, matrices, memory, streams

_DEFAULT_ALIGNMENT = 256
_ALIGNMENT_OF_WORKSPACE = 256

matmul_heuristic_result_dtype = np.dtype(
    [
        ("algo", [("data_", "<u8", (8,))]),
        ("workspace_size", "<u8"),
        ("state", "<i4"),
        ("waves_count", "<f4"),
        ("reserved", "<i4", (4,)),
    ]
)

_numbers = itertools.count(0x5000, 16)
_handles = {}  # handle -> device
_objects = {}  # live descriptors, layouts and preferences, by number
_algos = {}  # the bytes of an algorithm -> _Choice


class MatmulDescAttribute(IntEnum):
    """See cublasLtMatmulDescAttributes_t."""

    POINTER_MODE = 2
    TRANSA = 3
    TRANSB = 4
    EPILOGUE = 7


class MatmulPreferenceAttribute(IntEnum):
    """See cublasLtMatmulPreferenceAttributes_t."""

    SEARCH_MODE = 0
    MAX_WORKSPACE_BYTES = 1
    MIN_ALIGNMENT_A_BYTES = 5
    MIN_ALIGNMENT_B_BYTES = 6
    MIN_ALIGNMENT_C_BYTES = 7
    MIN_ALIGNMENT_D_BYTES = 8


_ALIGNMENTS = (
    MatmulPreferenceAttribute.MIN_ALIGNMENT_A_BYTES,
    MatmulPreferenceAttribute.MIN_ALIGNMENT_B_BYTES,
    MatmulPreferenceAttribute.MIN_ALIGNMENT_C_BYTES,
    MatmulPreferenceAttribute.MIN_ALIGNMENT_D_BYTES,
)


class cuBLASLtError(Exception):
    """A status that is not CUBLAS_STATUS_SUCCESS."""

    def __init__(self, status):
        self.status = status
        super().__init__(f"{_STATUS[status]} ({status})")


_INVALID_VALUE, _NOT_SUPPORTED = 7, 15
_STATUS = {_INVALID_VALUE: "CUBLAS_STATUS_INVALID_VALUE", _NOT_SUPPORTED: "CUBLAS_STATUS_NOT_SUPPORTED"}


def _fail(why, status=_INVALID_VALUE):
    error = cuBLASLtError(status)
    error.args = (f"{error}: {why}",)
    raise error


class MatmulHeuristicResult:
    """An array of structs. With one element, its number fields are plain numbers."""

    def __init__(self, size=1):
        self._data = np.full(size * matmul_heuristic_result_dtype.itemsize, 255, np.uint8)
        self._data = self._data.view(matmul_heuristic_result_dtype).view(np.recarray)

    ptr = property(lambda self: self._data.ctypes.data)
    algo = property(lambda self: self._data.algo)
    workspace_size = property(lambda self: self._field("workspace_size"))
    state = property(lambda self: self._field("state"))
    waves_count = property(lambda self: self._field("waves_count"))

    def _field(self, name):
        values = self._data[name]
        return values[0].item() if len(values) == 1 else values

    def __len__(self):
        return len(self._data)

    def __getitem__(self, key):
        part = type(self).__new__(type(self))
        part._data = self._data[key : key + 1] if isinstance(key, int) else self._data[key]
        if not len(part._data):
            raise IndexError(key)
        return part


@dataclass
class _Operation:
    compute: int
    scale: int
    transposed: list = field(default_factory=lambda: [matrices.OP_N, matrices.OP_N])


@dataclass
class _Preference:
    workspace: int = 0
    alignments: list = field(default_factory=lambda: [_DEFAULT_ALIGNMENT] * 4)


@dataclass(frozen=True)
class _Choice:
    """The problem that an algorithm was chosen for, and its requirements."""

    problem: tuple
    alignments: tuple
    workspace: int


def create():
    graphs.refuse("to create a handle")
    handle = next(_numbers)
    _handles[handle] = arrays.current_device
    return handle


def destroy(light_handle):
    _check_handle(light_handle)
    del _handles[light_handle]


def get_version():
    return 130000


def _check_handle(handle):
    if handle not in _handles:
        _fail("there is no such handle")
    if _handles[handle] != arrays.current_device:
        _fail("the handle is another device's")


def _add(thing):
    number = next(_numbers)
    _objects[number] = thing
    return number


def _get(kind, number):
    if not isinstance(_objects.get(number), kind):
        _fail(f"{number:#x} is no {kind.__name__.strip('_').lower()}, or is destroyed")
    return _objects[number]


def _destroy(kind, number):
    _get(kind, number)
    del _objects[number]


def matmul_desc_create(compute_type, scale_type):
    wanted = matrices.R_64F if compute_type == matrices.COMPUTE_64F else matrices.R_32F
    if scale_type != wanted:
        _fail("factors of another type than the arithmetic's", _NOT_SUPPORTED)
    return _add(_Operation(int(compute_type), int(scale_type)))


def matmul_desc_destroy(matmul_desc):
    _destroy(_Operation, matmul_desc)


def matmul_desc_set_attribute(matmul_desc, attr, buf, size_in_bytes):
    operation = _get(_Operation, matmul_desc)
    transposes = (MatmulDescAttribute.TRANSA, MatmulDescAttribute.TRANSB)
    if attr not in transposes:
        _fail(f"attribute {attr} is of no use here", _NOT_SUPPORTED)
    value = _read(ctypes.c_int32, buf, size_in_bytes)
    if value not in (matrices.OP_N, matrices.OP_T):
        _fail(f"{value} is no operation")
    operation.transposed[transposes.index(attr)] = value


def _read(kind, buf, size):
    if not buf or size != ctypes.sizeof(kind):
        _fail(f"an attribute has {size} bytes, not {ctypes.sizeof(kind)}")
    return kind.from_address(buf).value


def matrix_layout_create(type, rows, cols, ld):
    if type not in matrices.DTYPES:
        _fail(f"type {type} is of no use here", _NOT_SUPPORTED)
    return _add(matrices.Layout(int(type), int(rows), int(cols), int(ld)))


def matrix_layout_destroy(mat_layout):
    _destroy(matrices.Layout, mat_layout)


def matmul_preference_create():
    return _add(_Preference())


def matmul_preference_destroy(pref):
    _destroy(_Preference, pref)


def matmul_preference_set_attribute(pref, attr, buf, size_in_bytes):
    preference = _get(_Preference, pref)
    if attr == MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES:
        preference.workspace = _read(ctypes.c_uint64, buf, size_in_bytes)
    elif attr in _ALIGNMENTS:
        value = _read(ctypes.c_uint32, buf, size_in_bytes)
        if value <= 0 or value & (value - 1):
            _fail(f"an alignment of {value} bytes")
        preference.alignments[_ALIGNMENTS.index(attr)] = value
    else:
        _fail(f"attribute {attr} is of no use here", _NOT_SUPPORTED)


def _problem(handle, operation, layouts):
    """All that an algorithm is chosen for, if it is a product."""
    operation = _get(_Operation, operation)
    a, b, c, d = layouts = [_get(matrices.Layout, number) for number in layouts]
    try:
        for layout in layouts:
            layout.check()
    except matrices.Invalid as error:
        _fail(error)
    of_a, of_b = operation.transposed
    m, k = matrices.stored(of_a, a.rows, a.columns)
    also_k, n = matrices.stored(of_b, b.rows, b.columns)
    if k != also_k or not (m, n) == (c.rows, c.columns) == (d.rows, d.columns):
        _fail(f"op(A) is {m, k}, op(B) {also_k, n}, C {c.rows, c.columns}, D {d.rows, d.columns}")
    if a.kind != b.kind or c.kind != d.kind or (a.kind, d.kind, operation.compute) not in matrices.SUPPORTED:
        _fail("these types don't go together", _NOT_SUPPORTED)
    return (_handles[handle], operation.compute, operation.scale, of_a, of_b, a, b, c, d)


def matmul_algo_get_heuristic(
    light_handle,
    operation_desc,
    adesc,
    bdesc,
    cdesc,
    ddesc,
    preference,
    requested_algo_count,
    heuristic_results_array,
    return_algo_count,
):
    """Give two algorithms, the first with a workspace if any is allowed, the other without, in raw structs."""
    _check_handle(light_handle)
    problem = _problem(light_handle, operation_desc, (adesc, bdesc, cdesc, ddesc))
    preference = _get(_Preference, preference)
    if requested_algo_count <= 0 or not heuristic_results_array or not return_algo_count:
        _fail("there is no room for results")
    sizes = dict.fromkeys((_workspace_of(problem[-1], preference.workspace), 0))
    found = list(sizes)[:requested_algo_count]
    size = matmul_heuristic_result_dtype.itemsize
    results = (ctypes.c_ubyte * (size * len(found))).from_address(heuristic_results_array)
    results = np.frombuffer(results, matmul_heuristic_result_dtype)
    for result, workspace in zip(results, found, strict=True):
        choice = _Choice(problem, tuple(preference.alignments), workspace)
        content = hashlib.sha512(repr(choice).encode()).digest()  # 64 bytes, as an algorithm has
        _algos[content] = choice
        result["algo"]["data_"] = np.frombuffer(content, np.uint64)
        result["workspace_size"], result["state"], result["waves_count"] = workspace, 0, 1
    ctypes.c_int32.from_address(return_algo_count).value = len(found)


def _workspace_of(layout, most):
    """Return the workspace of an algorithm that splits K in two, limited to `most` bytes."""
    wanted = 2 * 4 * layout.rows * layout.columns
    return min(-(-wanted // 256) * 256, most // 256 * 256)


def matmul(
    light_handle,
    compute_desc,
    alpha,
    a,
    adesc,
    b,
    bdesc,
    beta,
    c,
    cdesc,
    d,
    ddesc,
    algo,
    workspace,
    workspace_size_in_bytes,
    stream,
):
    """Compute D <- alpha op(A) @ op(B) + beta C on a stream. The algorithm must be chosen for this problem."""
    _check_handle(light_handle)
    problem = _problem(light_handle, compute_desc, (adesc, bdesc, cdesc, ddesc))
    choice = _choice(algo, problem)
    device, compute, _, of_a, of_b, *layouts = problem
    if streams.device_of(stream) != device:
        _fail("the stream is another device's")
    matrices_at = zip("ABCD", layouts, (a, b, c, d), choice.alignments, strict=True)
    a, b, c, d = operands = [_operand(*each) for each in matrices_at]
    scratch = _workspace(workspace, workspace_size_in_bytes, choice.workspace)
    spans = [*operands, *scratch]
    _check_device(spans, device)
    _check_overlaps(a, b, c, d, scratch)
    factors = {"alpha": matrices.scalar(alpha, compute), "beta": matrices.scalar(beta, compute)}

    def work():
        for span in scratch:
            span.bytes()[...] = 255
        tf32 = compute == matrices.COMPUTE_32F_FAST_TF32
        matrices.multiply(d, a, b, c, transposed=(of_a, of_b), compute=compute, tf32=tf32, **factors)

    streams.submit("matmul", None, spans, work, stream)


def _choice(algo, problem):
    if not algo:
        _fail("no algorithm: the host would look for one at each call")
    choice = _algos.get(ctypes.string_at(algo, 64))
    if choice is None or choice.problem != problem:
        _fail("the heuristic has not given this algorithm for these descriptors")
    return choice


def _operand(name, layout, pointer, alignment):
    if pointer % alignment:
        _fail(f"{name} at {pointer:#x} is not aligned to {alignment} bytes, as the heuristic was told")
    try:
        return layout.at(pointer)
    except matrices.Invalid as error:
        _fail(f"{name}: {error}")


def _workspace(pointer, size, needed):
    """Return the spans of the workspace: one or none."""
    if size < needed:
        _fail(f"a workspace of {size} bytes, where the algorithm needs {needed}")
    if size == 0:
        return []
    if pointer % _ALIGNMENT_OF_WORKSPACE:
        _fail(f"the workspace at {pointer:#x} is not aligned to {_ALIGNMENT_OF_WORKSPACE} bytes")
    return [memory.Span(pointer, size)]


def _check_device(spans, device):
    if any(span.allocation.device != device for span in spans):
        _fail("a pointer is to another device's memory")


def _check_overlaps(a, b, c, d, scratch):
    """Raise on overlaps. D may be C, but the workspace may not overlap anything."""
    same = (c.address, c.size) == (d.address, d.size)
    if any(d.overlaps(other) for other in ((a, b) if same else (a, b, c))):
        _fail("D overlaps an operand")
    if any(span.overlaps(other) for span in scratch for other in (a, b, c, d)):
        _fail("the workspace overlaps an operand")
