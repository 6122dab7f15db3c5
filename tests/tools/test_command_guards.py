"""If its files or environment fail, a command prints one line, exits, and loses no file."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusedlstm import LSTMWeights, StackedWeights, atomic_write, convert
from fusedlstm.cli import compile as compiling
from fusedlstm.cli import convert as converting
from fusedlstm.cli import main as command_line
from fusedlstm.cli import run as running
from fusedlstm.cli import selftest as testing
from fusedlstm.cli.demo import digits

from support import real_nvrtc
from support.places import ROOT

ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


@pytest.fixture
def folder(tmp_path):
    """Make the files of each command in a folder."""
    LSTMWeights.random(2, 3, seed=0).save(tmp_path / "w")
    np.save(tmp_path / "x.npy", np.zeros((4, 5, 2), "f4"))
    np.save(tmp_path / "l.npy", np.full(5, 4))
    np.savez(tmp_path / "s.npz", h=np.zeros((5, 3)), c=np.zeros((5, 3)))
    rng = np.random.default_rng(0)
    arrays = {"weight_ih_l0": rng.normal(size=(12, 2)), "weight_hh_l0": rng.normal(size=(12, 3))}
    save_file(arrays, tmp_path / "model")
    return tmp_path


INPUTS = {
    "run": {"WEIGHTS": "w", "INPUTS": "x.npy", "--state": "s.npz", "--lengths": "l.npy"},
    "convert": {"SOURCE": "model"},
}


def run(folder, out="out.npz", **files):
    of = {"w": "w", "x": "x.npy", "s": "s.npz", "l": "l.npy"} | files
    options = ["--state", str(folder / of["s"]), "--lengths", str(folder / of["l"]), "--backend", "numpy"]
    given = [] if out is None else ["--out", str(folder / out)]
    return ["run", str(folder / of["w"]), str(folder / of["x"]), *options, *given]


def convert_(folder, out="out", **files):
    return ["convert", str(folder / files.get("source", "model")), str(folder / (out or "out")), "--force"]


COMMANDS = {
    "run": run,
    "convert": convert_,
    "info": lambda folder: ["info"],
    "demo": lambda folder: ["demo", "--backend", "numpy"],
    "selftest": lambda folder: ["selftest", "--backend", "numpy", "--dtype", "float64"],
    "compile": lambda folder: ["compile", str(folder / "w"), "--arch", "90", "--cache", str(folder / "kernels")],
    "tune": lambda folder: ["tune", "--forget"],
}
WITH_FILES = ("run", "convert")


def contents(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fails(capsys, arguments, message, status=1):
    """Check that a command fails with one line on standard error."""
    assert command_line.main(list(map(str, arguments))) == status
    said = capsys.readouterr()
    assert said.err.startswith("fusedlstm: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    assert message in said.err


# OUT.


@pytest.fixture
def no_work(monkeypatch):
    """Check that a command fails before any work."""
    for module, name in ((running, "load_weights"), (converting, "recognise"), (converting, "open_archive")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("work was done"))


CASES = [(command, what) for command, inputs in INPUTS.items() for what in inputs]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("way", ["the same path", "another path", "a link", "a hard link", "a link to it"])
@pytest.mark.parametrize(("command", "what"), CASES)
def test_out_is_not_an_input(command, what, way, folder, capsys, monkeypatch):
    name = INPUTS[command][what]
    out = folder / name
    if way == "another path":
        (folder / "sub").mkdir()
        out = f"sub/../{name}"
        monkeypatch.chdir(folder)
    elif way == "a link":
        if os.name != "posix":
            pytest.skip("needs POSIX links")
        (folder / "link").symlink_to(name)
        out = folder / "link"
    elif way == "a hard link":
        os.link(folder / name, folder / "link")
        out = folder / "link"
    elif way == "a link to it":
        if os.name != "posix":
            pytest.skip("needs POSIX links")
        (folder / name).rename(folder / "behind")
        (folder / name).symlink_to("behind")
        out = folder / "behind"
    before = contents(folder)
    arguments = COMMANDS[command](folder)
    arguments[arguments.index("--out") + 1 if command == "run" else 2] = str(out)
    label = {"run": "--out", "convert": "OUT"}[command]
    fails(capsys, arguments, f"{label}: wanted a file other than {what}, which would be lost; got {out}")
    assert contents(folder) == before


@pytest.mark.usefixtures("no_work")
def test_default_out_is_not_an_input(folder, capsys):
    """One run's result may be the next run's state, with the same inputs."""
    (folder / "s.npz").rename(folder / "x.out.npz")
    before = contents(folder)
    fails(capsys, run(folder, out=None, s="x.out.npz"), "--out: wanted a file other than --state, which would be lost")
    assert contents(folder) == before


@pytest.mark.usefixtures("no_work")
def test_empty_out_is_not_the_default(folder, capsys):
    """It comes from a shell's variable that isn't set."""
    before = contents(folder)
    fails(
        capsys, [*run(folder, out=None), "--out", ""], "--out: wanted a file in a folder that exists; got an empty path"
    )
    assert contents(folder) == before


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("out", [".", "absent/out", "w/out", "absent/"])
@pytest.mark.parametrize("command", WITH_FILES)
def test_out_is_a_file_in_a_folder(command, out, folder, capsys):
    before = contents(folder)
    arguments = COMMANDS[command](folder, out="")
    arguments[arguments.index("--out") + 1 if command == "run" else 2] = f"{folder}/{out}"
    fails(capsys, arguments, "wanted a file in a folder that exists")
    assert contents(folder) == before


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("command", WITH_FILES)
def test_unwritable_out_fails(command, exists, folder, capsys, monkeypatch):
    if exists:
        (folder / "out").write_bytes(b"older")
    before = contents(folder)
    guarded = str(folder / "out") if exists else str(folder)
    monkeypatch.setattr(atomic_write.os, "access", lambda path, mode: not (str(path) == guarded and mode == os.W_OK))
    fails(capsys, COMMANDS[command](folder, out="out"), f"Permission denied: '{folder / 'out'}'")
    assert contents(folder) == before


def test_run_overwrites_an_older_result(folder):
    (folder / "out.npz").write_bytes(b"older")
    assert command_line.main(run(folder)) == 0
    with np.load(folder / "out.npz") as result:
        assert result["outputs"].shape == (4, 5, 3)


def test_out_is_not_part_of_a_checkpoint(folder, capsys):
    """A prefix or a folder names a checkpoint, which consists of other files."""
    for name in ("model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001", "model.ckpt-70.index"):
        (folder / name).write_bytes(b"part")
    before = contents(folder)
    for source in ("model.ckpt-7", "model.ckpt-7.index"):
        for name in ("model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001"):
            fails(capsys, convert_(folder, name, source=source), "OUT: wanted a file other than SOURCE")
    (folder / "saved" / "variables").mkdir(parents=True)
    (folder / "saved" / "variables" / "variables.index").write_bytes(b"part")
    fails(
        capsys,
        convert_(folder, "saved/variables/variables.index", source="saved"),
        "OUT: wanted a file other than SOURCE's saved/variables/variables.index, which would be lost",
    )
    assert before.items() <= contents(folder).items()


def test_out_is_not_an_onnx_models_data(folder, capsys):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model = convert.to_onnx(LSTMWeights.random(20, 30, seed=0))
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    before = contents(folder)
    fails(capsys, convert_(folder, "m.data", source="m.onnx"), "OUT: wanted a file other than SOURCE's m.data, which")
    assert contents(folder) == before
    assert command_line.main(convert_(folder, "new", source="m.onnx")) == 0


@pytest.mark.parametrize("command", WITH_FILES)
def test_full_disk_fails(command, folder, capsys, monkeypatch):
    (folder / "out").write_bytes(b"older")
    before = contents(folder)

    class Full(io.FileIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_write, "open", Full, raising=False)
    fails(capsys, COMMANDS[command](folder, out="out"), f"No space left on device: '{folder / 'out'}'")
    assert contents(folder) == before


# Inputs.


@pytest.mark.parametrize("damage", ["missing", "a folder", "empty", "text", "half of it", "unreadable", "unsearchable"])
@pytest.mark.parametrize(("command", "what"), CASES)
def test_unreadable_inputs_fail(command, what, damage, folder, capsys, monkeypatch):
    name = INPUTS[command][what]
    path, message = folder / name, str(folder / name)
    (folder / "out").write_bytes(b"older")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    elif damage in ("empty", "text", "half of it"):
        path.write_bytes(
            {"empty": b"", "text": b"some text, not an array", "half of it": content[: len(content) // 2]}[damage]
        )
    before = contents(folder)
    if damage in ("unreadable", "unsearchable"):
        number = errno.EACCES if damage == "unreadable" else errno.EIO
        real = open

        def fail(file, *arguments, **options):
            if str(file) == str(path):
                raise OSError(number, os.strerror(number), file)
            return real(file, *arguments, **options)

        monkeypatch.setattr("builtins.open", fail)
        monkeypatch.setattr(io, "open", fail)
        message = os.strerror(number)
    fails(capsys, COMMANDS[command](folder, out="out"), message)
    monkeypatch.undo()
    assert contents(folder) == before


def claims(path, shape, dtype="<f4", data=b""):
    """Write a .npy file whose header claims this shape and dtype, whatever the data."""
    text = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "message"),
    [
        ("x.npy", (10**9, 10**9, 2), "<f4", "claims 8000000000000000000 bytes, but there are 0"),
        ("x.npy", (10**15, 5, 2), "<f4", "claims"),
        ("x.npy", (2**62, 2**62, 2), "<f8", "claims"),
        ("x.npy", (10**30, 0, 2), "<f4", "is not a .npy file of numbers, or is damaged"),
        ("x.npy", (10**18, 0, 2), "<f8", "is not a .npy file of numbers, or is damaged"),
        ("x.npy", (0, 10**12, 2), "<f4", "wanted at most 1048576 rows of inputs of width 0 or without steps"),
        ("x.npy", (-4, 5, 2), "<f4", "its shape (-4, 5, 2) has a negative size"),
        ("x.npy", (4, 5, 2), "|O", "it holds Python objects, which are never unpickled"),
        ("x.npy", (4, 5, 2), "<V0", "elements of 0 bytes"),
        ("x.npy", (True, 5, 2), "<f4", "bytes, but there are 0"),
        ("l.npy", (10**13,), "<i8", "claims 80000000000000 bytes, but there are 0"),
        ("l.npy", (10**30,), "<i8", "claims"),
        ("l.npy", (5,), "<i8", "claims 40 bytes, but there are 0"),
        ("l.npy", (5,), "|O", "it holds Python objects"),
    ],
)
def test_claimed_sizes_are_checked(name, shape, dtype, message, folder, capsys):
    claims(folder / name, shape, dtype)
    before = contents(folder)
    fails(capsys, run(folder), message)
    assert contents(folder) == before


@pytest.mark.parametrize("stacked", [False, True])
def test_endless_steps_without_rows_end(stacked, folder, capsys):
    """Without rows there is nothing to step, however many steps a file claims."""
    if stacked:
        StackedWeights.random(2, 3, 2, seed=0).save(folder / "w")
    claims(folder / "x.npy", (10**15, 0, 2))
    np.save(folder / "l.npy", np.zeros(0, int))
    names = ("h0", "c0", "h1", "c1") if stacked else ("h", "c")
    np.savez(folder / "s.npz", **{name: np.zeros((0, 3)) for name in names})
    assert command_line.main(run(folder)) == 0
    with np.load(folder / "out.npz") as result:
        assert result["outputs"].shape == (10**15, 0, 3)
    assert "1000000000000000 steps of 0 rows" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [1, 10**9])
def test_endless_steps_of_width_0_fail(rows, folder, capsys):
    """Inputs of width 0 have no bytes."""
    LSTMWeights.random(0, 3, seed=0).save(folder / "w")
    claims(folder / "x.npy", (10**15 // rows, rows, 0))
    fails(capsys, run(folder), "wanted at most 1048576 rows of inputs of width 0 or without steps; got shape")
    claims(folder / "x.npy", (7, 5, 0))
    assert command_line.main([*run(folder)[:3], "--backend", "numpy"]) == 0


def test_appended_arrays_are_ignored(folder):
    """np.save can append arrays to an open file. The first one counts."""
    with (folder / "x.npy").open("ab") as file:
        np.save(file, np.ones(3))
    assert command_line.main(run(folder)) == 0


def test_files_of_python_2_do_not_warn(folder, capsys):
    np.savez(folder / "s.npz", h=np.ones((5, 3), "f4"), c=np.ones((5, 3), "f4"))
    assert command_line.main(run(folder, out="wanted.npz")) == 0
    for name in ("x.npy", "l.npy"):
        (folder / name).write_bytes(as_python_2((folder / name).read_bytes()))
    with zipfile.ZipFile(folder / "s.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "s.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, as_python_2(content))
    assert command_line.main(run(folder)) == 0
    assert (folder / "out.npz").read_bytes() == (folder / "wanted.npz").read_bytes()
    assert capsys.readouterr().err == ""


def as_python_2(content):
    """Return a .npy file with its sizes written as 4L, as NumPy did on Python 2."""
    before, shape, after = re.fullmatch(rb"(.*'shape': \()([^)]*)(\).*)", content, re.DOTALL).groups()
    sizes = re.sub(rb"\d+", lambda size: size[0] + b"L", shape)
    return before + sizes + after.replace(b" " * (len(sizes) - len(shape)), b"", 1)


STATES = {
    "claims too much": (10**13, 3, b""),
    "has no data": (5, 3, b""),
    "overflows": (2**62, 2**62, b""),
    "objects": (5, 3, None),
}


@pytest.mark.parametrize("what", STATES)
def test_states_claiming_too_much_fail(what, folder, capsys):
    rows, width, data = STATES[what]
    with zipfile.ZipFile(folder / "s.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("h.npy", "c.npy"):
            claims(folder / "part", (rows, width), "<f4" if data is not None else "|O", data or b"\x80\x04N.")
            archive.writestr(name, (folder / "part").read_bytes())
    (folder / "part").unlink()
    before = contents(folder)
    fails(capsys, run(folder), f"{folder / 's.npz'} is damaged: h: ")
    assert contents(folder) == before


def test_zip_bomb_of_states_fails(folder, capsys):
    claims(folder / "part", (2**29,), "<f4")
    with zipfile.ZipFile(folder / "s.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("h.npy", "c.npy"):
            archive.writestr(name, (folder / "part").read_bytes())
    content = bytearray((folder / "s.npz").read_bytes())
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        content[at + 24 : at + 28] = (2**31 + 128).to_bytes(4, "little")
    (folder / "s.npz").write_bytes(content)
    fails(capsys, run(folder), "is damaged: h: it claims 2147483776 bytes")


# The environment.

WORK = {
    "run": (running, "_write"),
    "convert": (converting, "_describe"),
    "info": (command_line.blas, "describe"),
    "demo": (digits, "run"),
    "selftest": (testing, "checks_on"),
    "compile": (compiling, "load_weights"),
    "tune": (command_line.select, "forget_times"),
}


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory"),
        (MemoryError("Unable to allocate 3 GiB"), 1, "out of memory: Unable to allocate 3 GiB"),
        (OSError(errno.EIO, "Input/output error", "a\nb\x1b[2Jc"), 1, r"[Errno 5] Input/output error: 'a\nb\x1b[2Jc'"),
        (ValueError("in two\nlines\x1b[2J\udcff"), 1, r"in two lines\x1b[2J\udcff"),
        (RuntimeError("text"), 1, "text"),
        (ImportError("needs h5py"), 1, "needs h5py"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("command", COMMANDS)
def test_errors_end_a_command_in_one_line(command, error, status, line, folder, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    module, name = WORK[command]
    monkeypatch.setattr(module, name, fail)
    before = contents(folder)
    assert command_line.main(COMMANDS[command](folder)) == status
    assert capsys.readouterr().err == f"fusedlstm: {line}\n"
    assert contents(folder) == before


def started(arguments, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)  # keep output buffered, so that some is written at exit
    command = [sys.executable, "-m", "fusedlstm", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


@ON_POSIX
@pytest.mark.parametrize("command", COMMANDS)
def test_closed_pipe_ends_a_command(command, folder):
    """The command prints one line, and Python doesn't add another at exit."""
    if command == "compile" and real_nvrtc.missing():
        pytest.skip(real_nvrtc.missing())
    reader, writer = os.pipe()
    os.close(reader)
    with started(COMMANDS[command](folder), stdout=writer) as process:
        os.close(writer)
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (1, "fusedlstm: [Errno 32] Broken pipe: 'standard output'\n")
    if command in WITH_FILES:
        assert (folder / {"run": "out.npz", "convert": "out"}[command]).exists(), "the result was not written"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is missing")
def test_full_standard_output_fails():
    with open("/dev/full", "w") as full, started(["info"], stdout=full) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said == "fusedlstm: [Errno 28] No space left on device: 'standard output'\n"


@ON_POSIX
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_may_be_closed(streams, folder):
    """A daemon runs with closed streams."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OPENBLAS_NUM_THREADS": "1"}
    command = " ".join([sys.executable, "-m fusedlstm", *run(folder), streams])
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "out.npz").exists()
    command = command.replace(str(folder / "w"), str(folder / "absent"))
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1


@ON_POSIX
def test_keyboard_interrupt_ends_a_command(folder):
    LSTMWeights.random(64, 512, seed=0).save(folder / "w")
    np.save(folder / "x.npy", np.zeros((200_000, 1, 64), "f4"))
    before = contents(folder)
    with started(["--verbose", "run", str(folder / "w"), str(folder / "x.npy"), "--backend", "numpy"]) as process:
        assert "LSTMCell" in process.stderr.readline(), "the command didn't start"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 130
    assert said.splitlines()[-1] == "fusedlstm: interrupted"
    assert "Traceback" not in said
    assert contents(folder) == before


@ON_POSIX
def test_paths_need_not_be_unicode(folder):
    """Paths are printed in characters that the stream can encode."""
    name = os.fsdecode(b"out\xff.npz")
    try:
        (folder / name).write_bytes(b"older")
    except OSError:
        pytest.skip("the file system allows only Unicode names")
    with started(run(folder, out=name), stdout=subprocess.PIPE) as process:
        said, complained = process.communicate(timeout=120)
    assert (process.returncode, complained) == (0, "")
    assert r"out\udcff.npz: 4 steps of 5 rows" in said
