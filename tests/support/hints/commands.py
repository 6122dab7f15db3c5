"""Hints in messages of the commands, with commands that do what they say."""

import contextlib
import io

import numpy as np

from fusedlstm import convert
from fusedlstm.cli.main import main

from support.hints.arrays import our_file, torch_cell, written
from support.hints.case import FOLDER, Case, I, N, xs
from support.hints.from_onnx import branches, plain_onnx


def command(*words):
    """Run a command. If it fails, raise what it says."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as complained:
        status = main([str(word) for word in words])
    if status:
        raise RuntimeError(complained.getvalue())


def path(name):
    return FOLDER["now"] / name


def into(name, source, *options):
    """Convert a file to a new file of weights."""
    path(name).unlink(missing_ok=True)
    command("convert", source, path(name), *options)


def over(*options):
    into("w", written("m.npz"))
    command("convert", written("m.npz"), path("w"), *options)


def saved(name, model):
    path(name).write_bytes(model.SerializeToString())
    return path(name)


def without_a_start():
    """Return the path of an ONNX model that doesn't begin with its version, as other writers' may."""
    model = plain_onnx()
    model.ClearField("ir_version")
    return saved("m.onnx", model)


def haste():
    arrays = {"kernel": np.zeros((I, 4 * N), "f"), "recurrent_kernel": np.zeros((N, 4 * N), "f")}
    np.savez(path("haste.npz"), **arrays, bias=np.zeros(4 * N, "f"))
    return path("haste.npz")


def two():
    np.savez(path("two.npz"), **{f"{one}.{name}": array for one in "ab" for name, array in torch_cell().items()})
    return path("two.npz")


def run_with_one_thread():
    np.save(path("x.npy"), xs())
    command("run", our_file(), path("x.npy"), "--backend", "numpy", "--threads", "1")


CASES = {
    "a file that exists": Case(over, lambda: over("--force")),
    "names of one LSTM": Case(
        lambda: into("w", saved("m.onnx", branches(state=False)), "--name", "cell_0,cell_1"),
        lambda: into("w", saved("m.onnx", branches(state=False)), "--name", "cell_0"),
        "onnx",
    ),
    "a file of an unknown system": Case(
        lambda: into("w", without_a_start()),
        lambda: (into("w", without_a_start(), "--from", "onnx"), convert.from_onnx(without_a_start())),
        "onnx",
    ),
    "Keras's or haste's arrays": Case(
        lambda: into("w", haste()),
        lambda: (into("w", haste(), "--from", "haste"), convert.from_keras(list(np.load(haste()).values()))),
    ),
    "several LSTMs in a file": Case(lambda: into("w", two()), lambda: into("w", two(), "--name", "a")),
}
