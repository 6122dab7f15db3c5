"""Hints in messages of the commands, with commands that do what they say."""

import contextlib
import io
import re

import numpy as np

from fusedlstm import convert
from fusedlstm.backends.numpy import cores
from fusedlstm.cli.main import main

from support.hints.arrays import our_file, torch_cell, written
from support.hints.case import FOLDER, Case, I, N, attempt, torch, xs
from support.hints.from_keras import layer, model, started, without_config
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
    """Return the path of an ONNX model that doesn't begin with its version, as some programs write them."""
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


def crowded():
    return cores.complaint(10**6)


def run_with_one_thread():
    np.save(path("x.npy"), xs())
    command("run", our_file(), path("x.npy"), "--backend", "numpy", "--threads", "1")


def onnx_file():
    return saved("m.onnx", plain_onnx(hidden_size=N))


def keras_file(model, kind="keras"):
    model.save(path(f"m.{kind}"))
    return path(f"m.{kind}")


def torch_file():
    torch().save(torch().nn.LSTM(I, N).state_dict(), path("m.pt"))
    return path("m.pt")


def stated():
    """Convert a Keras model and its initial state, and run from that state."""
    np.save(path("x.npy"), xs())
    into("w", keras_file(started()), "--initial-state", path("S.npz"), "--force")
    command("run", path("w"), path("x.npy"), "--state", path("S.npz"), "--backend", "numpy")


def with_functions():
    """Pass a function as the message writes it."""
    (function,) = re.findall(r"or (\S+): give --gate-activation", attempt(lambda: into("w", without_config())))
    into("w", without_config(), "--activation", "tanh", "--gate-activation", function)


def of_other_system(make, given, right, needs):
    """Return the case of a file with another system in --from."""
    return Case(lambda: into("w", make(), "--from", given), lambda: into("w", make(), "--from", right), needs)


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
    "more threads than cores, in a command": Case(crowded, run_with_one_thread),
    "an initial state of a Keras file": Case(lambda: into("w", keras_file(started())), stated, "keras"),
    "functions of a Keras file": Case(lambda: into("w", without_config()), with_functions, "keras"),
    "an ONNX file as PyTorch's": of_other_system(onnx_file, "torch", "onnx", "onnx"),
    "a .h5 file as PyTorch's": of_other_system(lambda: keras_file(model(layer()), "h5"), "torch", "keras", "keras"),
    "a .keras file as PyTorch's": of_other_system(lambda: keras_file(model(layer())), "torch", "keras", "keras"),
    "PyTorch's file as Keras's": of_other_system(torch_file, "keras", "torch", "torch"),
    "a folder": Case(lambda: into("w", written("m.npz").parent), lambda: into("w", written("m.npz").parent / "m.npz")),
    "several LSTMs in a file": Case(lambda: into("w", two()), lambda: into("w", two(), "--name", "a")),
}
