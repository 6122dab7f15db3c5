"""Hints about calls within calls, the threads and the kernel of the BLAS, and packages that are missing."""

import contextlib
import logging
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor

import pytest

from fusedlstm import LSTMCell
from fusedlstm.backends.numpy import blas, cores
from fusedlstm.backends.numpy.matmul import Product
from fusedlstm.cli.progress import bar

from support.hints.case import B, Case, cell, pool_with, state, weights, x
from support.places import ENVIRONMENT, ROOT


@contextlib.contextmanager
def patched(target, name, value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, value)
        yield


@contextlib.contextmanager
def within(call):
    """Make a call in the middle of the next step, as a signal handler may."""
    run = Product.run

    def run_after(product, weight):
        Product.run = run
        call()
        run(product, weight)

    with patched(Product, "run", run_after):
        yield


def step_within(stepper, call):
    with within(call):
        stepper.step(x())


def stepper_within_itself():
    stepper = cell().stepper(B)
    step_within(stepper, stepper.reset)


def stepper_in_two_threads():
    stepper = cell().stepper(B)
    step_within(stepper, lambda: in_another_thread(stepper.reset))


def pool_within_itself():
    pool = pool_with(2)
    with within(lambda: pool.read([0])):
        pool.step(x(), [0, 1])


def in_another_thread(call):
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result()


def stepper_afterwards():
    stepper = cell().stepper(B)
    stepper.step(x())
    stepper.reset()


def pool_afterwards():
    pool = pool_with(2)
    pool.step(x(), [0, 1])
    pool.read([0])


def torn():
    """Return a Stepper whose last call has failed."""
    stepper = cell().stepper(B)
    with contextlib.suppress(ZeroDivisionError):
        step_within(stepper, lambda: 1 / 0)
    return stepper


def mended():
    for mend in (lambda stepper: stepper.reset(), lambda stepper: stepper.write(state())):
        stepper = torn()
        mend(stepper)
        stepper.step(x())


def own_steppers():
    first, second = cell().stepper(B), cell().stepper(B)
    step_within(first, lambda: in_another_thread(lambda: second.step(x())))


def limited_on_another_blas():
    with patched(blas, "why_threads_are_fixed", lambda: "it is another one"):
        LSTMCell(weights(), backend="numpy", threads=1)


def found_with(code, **variables):
    """Return what a new process prints, with these environment variables."""
    command = [sys.executable, "-c", f"from fusedlstm.backends.numpy import blas; print({code})"]
    return subprocess.run(command, env={**ENVIRONMENT, **variables}, capture_output=True, text=True, check=True).stdout


def limited_from_outside():
    assert found_with("blas.threads()", OPENBLAS_NUM_THREADS="1") in ("1\n", "None\n")


def old_kernel():
    return blas.advise("Prescott", ["X86_V3"], {})


def with_another_kernel():
    variable, value = re.findall(r"set (\w+)=(\w+) before", old_kernel())[0]
    assert found_with('blas.advise(blas.kernel(), ["X86_V3"], {})', **{variable: value}) == "None\n"


def absent(package, call):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, package, None)
        call()


def installs(extra, package):
    """Assert that an extra installs a package, as a message says."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert any(needed.startswith(package) for needed in extras[extra])


@contextlib.contextmanager
def at_level(level):
    logger = logging.getLogger("fusedlstm")
    before = logger.level
    logger.setLevel(level)
    yield
    logger.setLevel(before)


def bar_on_a_terminal():
    with patched(sys.stderr, "isatty", lambda: True), at_level(logging.INFO):
        absent("tqdm", lambda: bar(1, "step").__enter__())


def bar_with_tqdm():
    installs("cli", "tqdm")
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    with bar(1, "step") as tell:
        tell(1)


def bfloat16_with_ml_dtypes():
    installs("bfloat16", "ml_dtypes")
    weights(dtype="bfloat16")


def step_in_one_thread():
    LSTMCell(weights(), backend="numpy", threads=1)(x(), state())


CASES = {
    "a stepper within its step": Case(stepper_within_itself, stepper_afterwards),
    "a pool within its step": Case(pool_within_itself, pool_afterwards),
    "a stepper in two threads": Case(stepper_in_two_threads, own_steppers),
    "a stepper after a failure": Case(lambda: torn().step(x()), mended),
    "threads of another BLAS": Case(limited_on_another_blas, limited_from_outside),
    "more threads than cores": Case(lambda: cores.complaint(10**6), step_in_one_thread),
    "a kernel for older processors": Case(old_kernel, with_another_kernel),
    "no ml_dtypes": Case(
        lambda: absent("ml_dtypes", lambda: weights(dtype="bfloat16")), bfloat16_with_ml_dtypes, "ml_dtypes"
    ),
    "no tqdm": Case(bar_on_a_terminal, bar_with_tqdm),
}
