"""Hints about files that no importer reads as they are: archives, pipes, pickles, programs."""

import os
import warnings

import numpy as np
import pytest

from fusedlstm import convert
from fusedlstm.convert import archives

from support.containers import FILES
from support.hints.arrays import written
from support.hints.case import FOLDER, Case, I, N, T, torch


def from_bytes(content):
    (FOLDER["now"] / "m.bin").write_bytes(content)
    return convert.from_torch(FOLDER["now"] / "m.bin")


def ort_file():
    """Return the path of a model in onnxruntime's own format, and of the .onnx file that it was made from."""
    import onnxruntime

    from support.onnx_models import arrays_of, lstm_model, onnx

    model, made = FOLDER["now"] / "m.onnx", FOLDER["now"] / "m.ort"
    onnx.save(lstm_model(arrays_of(np.random.default_rng(0), I, N), {"hidden_size": N}), model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(made)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return made, model


def program():
    """Return the path of a program of torch.export."""
    path = FOLDER["now"] / "m.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch().export.export(torch().nn.LSTM(I, N).eval(), (torch().zeros(T, 2, I),))
        torch().export.save(made, path)
    return path


def zeros():
    """Return the path of arrays that are compressed a thousandfold."""
    path = FOLDER["now"] / "zeros.npz"
    np.savez_compressed(path, weight_ih_l0=np.zeros((4 * N, 10**5), "f"), weight_hh_l0=np.zeros((4 * N, N), "f"))
    return path


def bounded():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "_ALWAYS_INFLATED", 1 << 20)
        convert.from_torch(zeros())


def through_a_pipe():
    """Read a file through a pipe, as from a shell's <(cat m.npz)."""
    reading, writing = os.pipe()
    try:
        os.write(writing, written("m.npz").read_bytes())
        convert.from_torch(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
        os.close(writing)


def of_file(content, does):
    return Case(lambda: from_bytes(content), lambda: from_bytes(does(content)))


CASES = {name: of_file(content, does) for name, (content, _, does) in FILES.items() if does is not None} | {
    "onnxruntime's format": Case(
        lambda: convert.from_onnx(ort_file()[0]), lambda: convert.from_onnx(ort_file()[1]), "onnxruntime"
    ),
    "a program of torch.export": Case(
        lambda: convert.from_torch(program()),
        lambda: convert.from_torch(torch().export.load(program()).state_dict),
        "torch",
    ),
    "zeros": Case(bounded, lambda: convert.from_torch(dict(np.load(zeros())))),
    "a pipe": Case(through_a_pipe, lambda: convert.from_torch(written("m.npz"))),
}
