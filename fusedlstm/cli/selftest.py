"""Test the backends against the formula, for the command `fusedlstm selftest`."""

from __future__ import annotations

import datetime
import platform
from typing import TYPE_CHECKING

import numpy as np

import fusedlstm
from fusedlstm.arrays import dtypes
from fusedlstm.atomic_write import check_target
from fusedlstm.backends import kernel_choice, select, sequence_choice
from fusedlstm.cli.compile import compile_first
from fusedlstm.selftest import arithmetics
from fusedlstm.selftest.arithmetics import ARITHMETICS
from fusedlstm.selftest.checks import NUMPY, checks_on, grouped
from fusedlstm.selftest.needs import uses_of
from fusedlstm.selftest.report import Report
from fusedlstm.selftest.running import PASSED, Run
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.selftest.checks import Check

ALL_PASSED, FAILED, NOTHING_TESTED = 0, 1, 3  # exit statuses of the command


def selftest(
    say: Callable[[str], None],
    *,
    backend: str | None = None,
    names: Sequence[str] | None = None,
    kernels: Sequence[str] | None = None,
    seconds: float | None = None,
    json_path: str | None = None,
) -> int:
    """Run the checks, say a line for each when it has ended, and return the command's exit status.

    Args:
        say: writes a line.
        backend: "numpy", "cuda" or "cuda:<index>"; None for the first GPU and NumPy.
        names: the names of the kinds of arithmetic; None for all.
        kernels: the kernels to test on a GPU; None for all. If it is not None, NumPy is not tested.
        seconds: after this time, no check begins.
        json_path: a file that is replaced after every check.

    Raises:
        ValueError: no check fits the options, the backend is unknown, or `json_path` is not a file's path.
        OSError: `json_path` can't be written.
    """
    if json_path is not None:
        check_target("--json", json_path, {})
    devices = _devices(backend, kernels)
    unavailable = {device: _unavailable(device) for device in devices}
    reasons = {check: _reason(check, unavailable) for check in _checks(devices, names, kernels)}
    not_tested = grouped({check: reason for check, reason in reasons.items() if reason is not None})
    report = Report(json_path, _facts(unavailable), not_tested)
    for group in not_tested:
        say(f"not tested: {group}")
    checks = [check for check, reason in reasons.items() if reason is None]
    run = Run(checks, seconds)
    report.write(None)
    _compile(say, checks)
    while (check := run.begin()) is not None:
        report.write(check)  # before it begins, as it may crash
        report.results.append(run.finish(check))
        say(str(report.results[-1]))
    report.left = grouped(run.left)
    status = _status(report)
    report.write(None, status)
    say("\n".join(_summary(report, status)))
    return status


def _devices(backend: str | None, kernels: Sequence[str] | None) -> list[str]:
    """Return the devices to test, as LSTMCell takes them."""
    if backend is None:
        return ["cuda:0"] if kernels else ["cuda:0", NUMPY]
    kind, index = select.parse("--backend", backend)
    if kind == NUMPY and kernels:
        fail(ValueError, "--kernel", "no kernel with --backend numpy", ", ".join(kernels))
    return [NUMPY if kind == NUMPY else f"cuda:{index}"]


def _unavailable(device: str) -> str | None:
    return select.unavailable_reason(*select.parse("--backend", device))


def _checks(devices: Sequence[str], names: Sequence[str] | None, kernels: Sequence[str] | None) -> list[Check]:
    """Return the checks of these options. Raise ValueError if none fits."""
    names = arithmetics.NAMES if names is None else tuple(dict.fromkeys(names))
    wanted = sequence_choice.NAMES if kernels is None else kernels
    checks = [check for device in devices for check in checks_on(device, names, wanted)]
    if not checks and devices == [NUMPY]:
        fail(ValueError, "--dtype", "another dtype with --backend numpy", names[0], "NumPy multiplies float32 as IEEE")
    if not checks:
        about = ARITHMETICS[names[0]]
        reason = kernel_choice.reason_against(wanted[0], about.dtype, about.precision)
        fail(ValueError, "--kernel", f"a kernel for {', '.join(names)}", ", ".join(wanted), reason or "")
    return checks


def _reason(check: Check, unavailable: dict[str, str | None]) -> str | None:
    """Return why a check can't be run here, or None."""
    reason = unavailable[check.device]
    if reason is not None:
        return reason
    try:
        dtypes.resolve(ARITHMETICS[check.arithmetic].dtype)
    except ImportError as error:
        return str(error)
    if check.kernel == NUMPY:
        return None
    if check.kernel == "matmul":
        return select.reason_against_plans() if check.kind in ("stepper", "pool") else None
    return kernel_choice.reason_against_device(_capability(check.device))


def _capability(device: str) -> int:
    return select.capability(select.parse("device", device)[1])


def _compile(say: Callable[[str], None], checks: Sequence[Check]) -> None:
    on_gpu = [check for check in checks if check.kernel != NUMPY]
    if on_gpu:
        compile_first(say, uses_of(on_gpu), _capability(on_gpu[0].device))


def _facts(unavailable: dict[str, str | None]) -> dict[str, str]:
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fusedlstm": fusedlstm.__version__,
        "kernels": select.digest_of_kernels(),
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "NumPy": np.__version__,
    }
    for device, reason in unavailable.items():
        if device != NUMPY:
            index = select.parse("device", device)[1]
            facts |= {"cuda": f"can't run: {reason}"} if reason else select.facts_of_gpu(index)
    return facts


def _status(report: Report) -> int:
    if not report.results:
        return NOTHING_TESTED
    return ALL_PASSED if all(result.outcome == PASSED for result in report.results) else FAILED


def _summary(report: Report, status: int) -> list[str]:
    """Return the table, what was left out, the facts, and the verdict."""
    lines = ["", *report.table(), ""] if report.results else [""]
    lines += [f"not run: {group}" for group in report.left]
    lines += [f"{name:13} {value}" for name, value in report.facts.items()]
    failed = sum(result.outcome != PASSED for result in report.results)
    skipped = sum(len(group.checks) for group in (*report.left, *report.not_tested))
    words = {NOTHING_TESTED: "nothing could be tested", FAILED: f"{failed} of {len(report.results)} checks FAILED"}
    verdict = words.get(status, f"{len(report.results)} checks passed")
    return [*lines, "", f"{verdict}, and {skipped} were not run" if skipped else verdict]
