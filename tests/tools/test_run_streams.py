"""`fusedlstm run` holds a part of the steps in memory, reads and writes pipes, and says where results are NaN."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMWeights, StackedWeights
from fusedlstm.cli import main as command_line
from fusedlstm.cli import run as running
from fusedlstm.cli import run_steps

from support.places import ROOT
from support.streams import Pipe, claim, saved, shell_pipe, shell_target

T, B, I, N = 11, 3, 2, 4
KINDS = {
    "cell": LSTMWeights.random(I, N, seed=0),
    "layers": StackedWeights.random(I, N, 2, seed=0),
    "both ways": StackedWeights.random(I, N, 2, seed=0, bidirectional=True),
    "half": StackedWeights.random(I, N, 2, seed=0, bidirectional=True, dtype="bfloat16"),
}
ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes and signals")
WITH_LINKS = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs pipes as links, as in Linux")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    "OPENBLAS_NUM_THREADS": "1",
}


@pytest.fixture
def folder(tmp_path):
    for name, weights in KINDS.items():
        weights.save(tmp_path / name)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(T, B, I)))
    np.save(tmp_path / "lengths.npy", np.array([11, 0, 5]))
    return tmp_path


def run(folder, *arguments, kind="cell", inputs="x.npy", out="out.npz", status=0, loads=True):
    paths = [str(folder / kind), inputs if inputs == "-" else str(folder / inputs)]
    command = ["run", *paths, "--out", str(folder / out), "--backend", "numpy", *map(str, arguments)]
    assert command_line.main(command) == status
    return None if status or not loads else load(folder / out)


def load(path):
    loaded = np.load(path)
    return loaded if isinstance(loaded, np.ndarray) else dict(loaded)


def assert_same(got, wanted):
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def started(*arguments, **options):
    command = [sys.executable, "-m", "fusedlstm", *map(str, arguments), "--backend", "numpy"]
    return subprocess.Popen(command, env=ENVIRONMENT, **options)


# Parts of the steps.


@pytest.mark.parametrize("given", [(), ("--lengths", "lengths.npy")])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_change_no_bits(kind, given, folder, monkeypatch):
    """On NumPy, results don't depend on how steps are divided."""
    given = [folder / each if each.endswith("npy") else each for each in given]
    whole = run(folder, *given, kind=kind)
    for steps in (1, 4):
        monkeypatch.setattr(run_steps, "_PART", steps * B * 4 * N)
        assert_same(run(folder, *given, kind=kind), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [np.asfortranarray, lambda x: x.astype(">f4"), lambda x: (x * 9).astype("i2")])
def test_layouts_and_dtypes_of_inputs(change, kind, folder, monkeypatch):
    x = change(np.load(folder / "x.npy"))
    np.save(folder / "changed.npy", x)
    np.save(folder / "plain.npy", np.ascontiguousarray(x).astype("f8"))
    whole = run(folder, kind=kind, inputs="plain.npy")
    monkeypatch.setattr(run_steps, "_PART", 4 * B * 4 * N)
    assert_same(run(folder, kind=kind, inputs="changed.npy"), whole)


def test_rows_past_their_ends_are_not_stepped(folder, monkeypatch):
    """The longest row ends the work. The rest of the outputs is zeros."""
    np.save(folder / "lengths.npy", np.array([2, 0, 3]))
    monkeypatch.setattr(run_steps, "_PART", 2 * B * 4 * N)
    taken, call = [], LSTMCell.__call__
    monkeypatch.setattr(LSTMCell, "__call__", lambda self, x, state: taken.append(len(x)) or call(self, x, state))
    outputs = run(folder, "--lengths", folder / "lengths.npy")["outputs"]
    assert taken == [B] * 3
    assert outputs[2, 2].any()
    assert not outputs[3:].any()


@pytest.mark.parametrize(("kind", "passes"), [("cell", 1), ("layers", 1), ("both ways", 4)])
def test_progress_counts_steps_of_all_layers(kind, passes, folder, monkeypatch):
    """With both directions, each direction of each layer takes all steps by itself."""
    totals, counted = [], []

    @contextlib.contextmanager
    def bar(total, unit):
        totals.append((total, unit))
        yield counted.append

    monkeypatch.setattr(running, "bar", bar)
    monkeypatch.setattr(run_steps, "_PART", 4 * B * 4 * N)
    run(folder, kind=kind)
    assert totals == [(T * passes, "step")]
    assert sum(counted) == T * passes
    assert max(counted) == 4


@pytest.mark.parametrize(
    ("hidden_size", "layers", "B", "steps"),
    [(4, 1, 1, 2**17), (4, 1, 64, 2**11), (512, 1, 1, 2**10), (2048, 1, 1, 64), (2048, 4, 1, 16), (2048, 4, 2**20, 1)],
)
def test_parts_are_short(hidden_size, layers, B, steps):
    """Arrays have at most 2^21 numbers, and the products of a part take about a second at most."""
    of_cell = SimpleNamespace(hidden_size=hidden_size, input_size=hidden_size, output_size=hidden_size)
    assert run_steps.Division.of([of_cell] * layers, 2**30, B).steps == steps


GROWTH = """
import re, sys
import numpy as np
from fusedlstm.cli.main import main

def peak():  # of this process: getrusage's would count the one that started it
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

def run(steps):
    with open("large.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (steps, 64, 64)})
        file.truncate(file.tell() + steps * 64 * 64 * 4)
    assert main(["run", sys.argv[1], "large.npy", "--backend", "numpy", "--outputs", sys.argv[2]]) == 0

run(1600)
before = peak()
run(4096)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize(("kind", "outputs"), [("cell", "h,c,final"), ("both ways", "h,final")])
def test_memory_does_not_grow_with_steps(kind, outputs, tmp_path):
    """64 MiB of inputs take less than 4 MiB of memory more than 25 MiB of them do."""
    two = kind == "both ways"
    weights = StackedWeights.random(64, 4, 2, bidirectional=True, seed=0) if two else LSTMWeights.random(64, 4, seed=0)
    weights.save(tmp_path / "w")
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, "w", outputs],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 2**22


# What is written.


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        ("h", ["outputs"]),
        ("c", ["cells"]),
        ("final", ["h", "c"]),
        ("c,h", ["outputs", "cells"]),
        ("final,c", ["cells", "h", "c"]),
        ("h,c,final", ["outputs", "cells", "h", "c"]),
    ],
)
def test_outputs_are_chosen(outputs, names, folder):
    whole = run(folder)
    assert_same(run(folder, "--outputs", outputs), {name: whole[name] for name in names})


@pytest.mark.parametrize("kind", ["layers", "both ways"])
def test_outputs_of_layers_are_chosen(kind, folder, capsys):
    whole = run(folder, kind=kind)
    assert_same(run(folder, "--outputs", "h", kind=kind), {"outputs": whole.pop("outputs")})
    assert_same(run(folder, "--outputs", "final", kind=kind), whole)
    run(folder, "--outputs", "h,c", kind=kind, status=1)
    assert "--outputs: wanted h or final for layers; got h,c" in capsys.readouterr().err


@pytest.mark.parametrize("outputs", ["", "h,h", "h,", "outputs", "h c"])
def test_unknown_outputs_are_wrong_usage(outputs, folder, capsys):
    with pytest.raises(SystemExit):
        run(folder, "--outputs", outputs)
    assert "wanted one or more of h, c and final, with commas between" in capsys.readouterr().err


def test_npy_files_hold_one_array(folder, capsys):
    whole = run(folder)
    for arguments, name in (((), "outputs"), (("--outputs", "h"), "outputs"), (("--outputs", "c"), "cells")):
        np.testing.assert_array_equal(run(folder, *arguments, out="y.npy"), whole[name])
    assert np.load(folder / "y.npy", mmap_mode="r").flags.c_contiguous
    run(folder, "--outputs", "h,final", out="y.npy", status=1)
    assert "y.npy gets one array; got h,final. A .npz file holds several" in capsys.readouterr().err


def test_archives_have_the_bytes_of_savez(folder):
    wanted = io.BytesIO()
    np.savez(wanted, **run(folder))
    assert (folder / "out.npz").read_bytes() == wanted.getvalue()


# Pipes.


@ON_POSIX
@pytest.mark.parametrize("change", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize("kind", ["cell", "both ways"])
def test_pipes_in_and_out(kind, change, folder):
    pipe, inputs = subprocess.PIPE, saved(change(np.load(folder / "x.npy")))
    process = started("run", folder / kind, "-", "--out", "-", stdin=pipe, stdout=pipe, stderr=pipe)
    said, complained = process.communicate(inputs, timeout=300)
    assert process.returncode == 0, complained
    np.testing.assert_array_equal(np.load(io.BytesIO(said)), run(folder, kind=kind)["outputs"])
    assert re.fullmatch(r"standard output: 11 steps of 3 rows on .* a second\n", complained.decode())


@ON_POSIX
def test_redirected_files_and_fifos_are_inputs(folder):
    wanted = run(folder)
    with (folder / "x.npy").open("rb") as file:
        assert started("run", folder / "cell", "-", "--out", folder / "a.npz", stdin=file, stdout=-3).wait(300) == 0
    os.mkfifo(folder / "fifo")
    process = started("run", folder / "cell", folder / "fifo", "--out", folder / "b.npz", stdout=subprocess.DEVNULL)
    (folder / "fifo").write_bytes((folder / "x.npy").read_bytes())
    assert process.wait(300) == 0
    assert_same(load(folder / "a.npz"), wanted)
    assert_same(load(folder / "b.npz"), wanted)


@WITH_LINKS
@pytest.mark.parametrize("kind", ["cell", "both ways"])
def test_pipes_of_a_shell_hold_archives(kind, folder, capsys):
    """Such a path, /dev/fd/N, is in a folder that takes no temporary files."""
    wanted = run(folder, kind=kind)
    capsys.readouterr()
    with shell_target() as (path, came):
        run(folder, kind=kind, out=path, loads=False)
        assert_same(dict(np.load(io.BytesIO(came()))), wanted)


@WITH_LINKS
@pytest.mark.parametrize("path", ["a pipe", "/dev/stdin"])
def test_a_shells_pipe_needs_an_out(path, folder, capsys):
    with shell_pipe(b"") as pipe:
        paths = [str(folder / "cell"), pipe if path == "a pipe" else path]
        assert command_line.main(["run", *paths, "--backend", "numpy"]) == 1
    wanted = "--out: wanted a path, or - for standard output, if INPUTS is standard input or a shell's pipe; got none"
    assert wanted in capsys.readouterr().err


@WITH_LINKS
@pytest.mark.parametrize("kind", ["cell", "both ways"])
@pytest.mark.parametrize("option", ["--lengths", "--state"])
def test_other_files_may_come_from_pipes(option, kind, folder):
    states = {name: array for name, array in run(folder, kind=kind).items() if name[0] in "hc" and array.ndim == 2}
    np.savez_compressed(folder / "state.npz", **states)
    path = folder / {"--lengths": "lengths.npy", "--state": "state.npz"}[option]
    wanted = run(folder, option, path, kind=kind)
    with shell_pipe(path.read_bytes()) as pipe, shell_pipe((folder / kind).read_bytes()) as weights:
        assert_same(run(folder, option, pipe, kind=weights), wanted)


@WITH_LINKS
@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--lengths", claim((B,), dtype="<i8"), "or is damaged: int64 of shape (3,) claims 24 bytes"),
        ("--lengths", claim((10**15,), dtype="<i8"), "wanted shape (B,) = (3,); got shape (1000000000000000,)"),
        ("--lengths", b"text", "is not a .npy file of numbers, or is damaged"),
        ("--state", b"PK", "is damaged, or not a .npz file"),
        ("--state", b"text", "is damaged, or not a .npz file"),
    ],
)
def test_bad_pipes_fail(option, content, message, folder, capsys):
    with shell_pipe(content) as path:
        run(folder, option, path, status=1)
    assert message in capsys.readouterr().err


@WITH_LINKS
@pytest.mark.parametrize("option", ["--lengths", "--state", "weights"])
def test_endless_devices_fail(option, folder, capsys):
    """zipfile may read all of a device that can seek."""
    if option == "weights":
        run(folder, kind="/dev/zero", status=1)
    else:
        run(folder, option, "/dev/zero", status=1)
    assert "/dev/zero" in capsys.readouterr().err


def fails(folder, monkeypatch, capsys, content, *arguments, kind="cell"):
    """Run with these bytes on standard input, and return the line on standard error."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Pipe(content)))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert command_line.main(["run", str(folder / kind), "-", *map(str, arguments), "--backend", "numpy"]) == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    complained = capsys.readouterr().err
    assert complained.count("\n") == 1
    return complained


@pytest.mark.parametrize("kind", ["cell", "layers", "both ways"])
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("shape", [(10**15, 1, I), (1, 10**12, I), (10**9, 10**9, I)])
def test_streams_that_claim_too_much_fail(shape, by_columns, kind, folder, monkeypatch, capsys):
    """They fail at the end of the data, before memory is taken or a file replaced."""
    (folder / "o.npz").write_bytes(b"older")
    content = claim(shape, by_columns) + bytes(2**12)
    said = fails(folder, monkeypatch, capsys, content, "--out", folder / "o.npz", kind=kind)
    assert "fusedlstm: standard input is not a .npy file of numbers, or is damaged: float32 of shape" in said


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", ("--out", "-"), "standard input is not a .npy file of numbers, or is damaged"),
        (b"text, not an array", ("--out", "-"), "standard input is not a .npy file of numbers, or is damaged"),
        (claim((2, 3, 5)), ("--out", "-"), "standard input: wanted shape (T, B, I) with I = 2; got shape (2, 3, 5)"),
        (
            b"",
            (),
            "--out: wanted a path, or - for standard output, if INPUTS is standard input or a shell's pipe; got none",
        ),
    ],
)
def test_bad_streams_fail(content, arguments, message, folder, monkeypatch, capsys):
    assert f"fusedlstm: {message}" in fails(folder, monkeypatch, capsys, content, *arguments)


@ON_POSIX
def test_redirected_inputs_are_not_overwritten(folder):
    before = (folder / "x.npy").read_bytes()
    with (folder / "x.npy").open("rb") as file:
        process = started("run", folder / "cell", "-", "--out", folder / "x.npy", stdin=file, stderr=subprocess.PIPE)
        _, complained = process.communicate(timeout=300)
    assert b"--out: wanted a file other than INPUTS, which would be lost" in complained
    assert (folder / "x.npy").read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is missing")
@pytest.mark.parametrize(
    ("kind", "inputs", "out"), [("both ways", "x.npy", "o.npz"), ("cell", "x.npy", "o.npz"), ("both ways", "-", "-")]
)
def test_full_folder_of_temporary_files_is_named(kind, inputs, out, folder, monkeypatch, capsys):
    """Neither the inputs nor the results get the blame."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    content = saved(np.zeros((2000, B, I)))
    if inputs == "-":
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Pipe(content)))
    (folder / "x.npy").write_bytes(content)
    (folder / "o.npz").write_bytes(b"older")
    paths = [inputs if inputs == "-" else str(folder / inputs), "--out", out if out == "-" else str(folder / out)]
    assert command_line.main(["run", str(folder / kind), *paths, "--backend", "numpy"]) == 1
    there = tempfile.gettempdir() if out == "-" else os.path.realpath(folder)
    wanted = f"fusedlstm: [Errno 28] No space left on device: 'a temporary file in {there}'\n"
    assert capsys.readouterr().err == wanted
    assert (folder / "o.npz").read_bytes() == b"older"


@ON_POSIX
def test_closed_standard_output_ends_a_run(folder):
    reader, writer = os.pipe()
    os.close(reader)
    process = started("run", folder / "cell", folder / "x.npy", "--out", "-", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, complained = process.communicate(timeout=300)
    assert process.returncode == 1
    assert complained == b"fusedlstm: [Errno 32] Broken pipe: 'standard output'\n"


# Interrupts.


@ON_POSIX
@pytest.mark.parametrize("kind", ["cell", "both ways"])
@pytest.mark.parametrize(
    ("number", "status", "line"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")],
)
def test_ended_runs_leave_no_files(kind, number, status, line, folder):
    """A run ends in one line while it writes. The older result stays, and nothing else."""
    (folder / "o.npz").write_bytes(b"older")
    before = sorted(os.listdir(folder))
    arguments = ("run", folder / kind, "-", "--out", folder / "o.npz")
    with started(*arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(claim((10**9, B, I)) + bytes(2**20 + 2**14))
        process.stdin.flush()
        until(lambda: kind == "both ways" or len(os.listdir(folder)) > len(before))
        time.sleep(0.2)
        process.send_signal(number)
        _, complained = process.communicate(timeout=300)
        assert process.returncode == status
    assert complained == f"fusedlstm: {line}\n".encode()
    assert (folder / "o.npz").read_bytes() == b"older"
    assert sorted(os.listdir(folder)) == before


def until(condition):
    limit = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@ON_POSIX
def test_next_run_removes_a_killed_runs_file(folder):
    with started("run", folder / "cell", "-", "--out", folder / "o.npz", stdin=subprocess.PIPE) as process:
        process.stdin.write(claim((10**9, B, I)) + bytes(2**20 + 2**14))
        process.stdin.flush()
        until(lambda: any(name.endswith(".fusedlstm-tmp") for name in os.listdir(folder)))
        process.kill()
    run(folder, out="o.npz")
    assert not [name for name in os.listdir(folder) if name.endswith(".fusedlstm-tmp")]


# NaN in results.


@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_outputs_is_logged(kind, folder, monkeypatch, caplog):
    x = np.load(folder / "x.npy")
    x[9, 1, 0] = np.nan
    np.save(folder / "nan.npy", x)
    monkeypatch.setattr(run_steps, "_PART", 4 * B * 4 * N)
    run(folder, kind=kind, inputs="nan.npy")
    first = (0, "") if kind in ("both ways", "half") else (9, ", where the inputs are not finite")
    said = f"out.npz: the outputs hold NaN, first at step {first[0]} in row 1, counted from 0{first[1]}"
    assert [record.message for record in caplog.records] == [f"{folder}/{said}"]


def test_nan_after_the_ends_of_rows_is_ignored(folder, caplog):
    x = np.load(folder / "x.npy")
    x[5:, 2] = x[:, 1] = np.nan
    np.save(folder / "nan.npy", x)
    run(folder, "--lengths", folder / "lengths.npy", inputs="nan.npy")
    assert not caplog.records
