"""The list of checks: which objects are tested, with which dtypes, kernels, cells and numbers of rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedlstm.backends import kernel_choice
from fusedlstm.backends.uses import OBJECTS
from fusedlstm.selftest import arithmetics
from fusedlstm.selftest.cells import CELLS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NUMPY = "numpy"  # in the place of a kernel's name
# Numbers of rows. "tensor_small" and "simt" have other tiles for few rows, and "scan" for many.
ROWS = {
    NUMPY: (5, 70),
    "matmul": (5, 70),
    "tensor_large": (140,),
    "tensor_medium": (70,),
    "tensor_small": (5, 40),
    "simt": (5, 70),
    "scan": (1030, 5),
}
_MANY_ROWS = 2049  # for the largest tile of "simt"
# Forms of cells for each object, with options of Check.
_TO_STATE, _HOST = {"to_state": True}, {"host": True}
_FORMS: dict[str, list[tuple[str, dict[str, bool]]]] = {
    "cell": [*((form, {}) for form in CELLS[:1]), *((form, _TO_STATE) for form in CELLS)],
    "sequence": [("plain", {}), ("projection", _TO_STATE), ("layers", _TO_STATE), ("both directions", {})],
    "stepper": [
        ("plain", {}),
        ("plain", _HOST | _TO_STATE),
        *((form, _TO_STATE) for form in CELLS),
        ("projection", _HOST),
        ("layers", _TO_STATE),
    ],
    "pool": [("plain", {}), *((form, _HOST) for form in CELLS), ("projection", {}), ("layers", {})],
}
_SCANNED = [("plain", {}), *((form, _TO_STATE) for form in CELLS), ("layers", _TO_STATE), ("both directions", {})]


@dataclass(frozen=True)
class Check:
    """One object on one backend, compared with the formula.

    Attributes:
        device: "numpy" or "cuda:<index>".
        kind: one of OBJECTS.
        arithmetic: a name in `arithmetics.ARITHMETICS`.
        kernel: a name in `sequence_choice.NAMES`, or NUMPY.
        form: the weights, as `cells.weights_of` takes them.
        B: the number of rows.
        to_state: whether rows are reset to a state instead of zeros.
        host: whether a Stepper's buffers, or a pool's slots, are in host memory.
    """

    device: str
    kind: str
    arithmetic: str
    kernel: str
    form: str
    B: int
    to_state: bool = False
    host: bool = False

    @property
    def backend(self) -> str:
        """Return "numpy" or "cuda"."""
        return self.device.partition(":")[0]

    @property
    def what(self) -> str:
        """Return the part of the name after the kernel."""
        words = [self.form, f"B={self.B}"]
        if self.kind == "pool":
            words.append("slots on the host" if self.host else "slots on the GPU")
        elif self.host:
            words.append("host=True")
        if self.to_state:
            words.append("resets to a state")
        return ", ".join(words)

    def __str__(self) -> str:
        return f"{self.backend} {self.kind} {self.arithmetic} {self.kernel}: {self.what}"


@dataclass(frozen=True)
class Group:
    """Checks that are not run, of one object and dtype, and why."""

    checks: tuple[Check, ...]
    reason: str

    def __str__(self) -> str:
        first = self.checks[0]
        kernels = ", ".join(dict.fromkeys(check.kernel for check in self.checks))
        count = f"{len(self.checks)} check{'s' * (len(self.checks) > 1)}"
        return f"{count} of {first.backend} {first.kind} {first.arithmetic}, {kernels}: {self.reason}"


def _forms(kind: str, kernel: str, dtype: str, precision: str) -> Sequence[tuple[str, dict[str, bool]]]:
    """Return the forms of cells for an object and a kernel, with options of Check."""
    if kernel != kernel_choice.SCAN:
        return _FORMS[kind]
    if kind != "sequence":
        return ()
    projects = kernel_choice.arithmetic(dtype, precision) != "tf32"
    return [(form, options) for form, options in _SCANNED if projects or "projection" not in form]


def checks_on(device: str, names: Sequence[str], kernels: Sequence[str]) -> Iterator[Check]:
    """Yield a device's checks for these kinds of arithmetic and, on a GPU, for these kernels."""
    on_cpu = device == NUMPY
    for name in names:
        arithmetic = arithmetics.ARITHMETICS[name]
        if on_cpu and arithmetic.precision == "high":  # NumPy ignores it
            continue
        about = arithmetic.dtype, arithmetic.precision
        fitting = (NUMPY,) if on_cpu else [k for k in kernels if kernel_choice.reason_against(k, *about) is None]
        for kind, kernel in itertools.product(OBJECTS, fitting):
            for form, options in _forms(kind, kernel, *about):
                if on_cpu and kind == "pool" and not options:  # there, all slots are on the host
                    continue
                every = form == CELLS[0] and not options
                for B in ROWS[kernel] if every else ROWS[kernel][-1:]:
                    yield Check(device, kind, name, kernel, form, B, **options)
            if (kind, kernel) == ("stepper", "simt"):
                yield Check(device, kind, name, kernel, CELLS[0], _MANY_ROWS)


def grouped(reasons: Mapping[Check, str]) -> list[Group]:
    """Return checks that are not run, in groups with one device, dtype, object and reason."""
    groups: dict[tuple[str, ...], list[Check]] = {}
    for check, reason in reasons.items():
        groups.setdefault((check.device, check.arithmetic, check.kind, reason), []).append(check)
    return [Group(tuple(each), key[-1]) for key, each in groups.items()]
