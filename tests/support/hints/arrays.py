"""Arrays and files with other systems' names."""

import numpy as np

from support.hints.case import FOLDER, I, N, weights


def written(name):
    np.savez(FOLDER["now"] / name, weight_ih_l0=np.zeros((4 * N, I), "f"), weight_hh_l0=np.zeros((4 * N, N), "f"))
    return FOLDER["now"] / name


def our_file():
    weights().save(FOLDER["now"] / "w.safetensors")
    return FOLDER["now"] / "w.safetensors"


def torch_cell():
    return {name: np.zeros((4 * N, width), "f") for name, width in (("weight_ih", I), ("weight_hh", N))} | {
        name: np.zeros(4 * N, "f") for name in ("bias_ih", "bias_hh")
    }


def equinox_cell():
    return {
        "weight_ih": np.zeros((4 * N, I), "f"),
        "weight_hh": np.zeros((4 * N, N), "f"),
        "bias": np.zeros(4 * N, "f"),
    }


def named(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


def tf1(scope="rnn/lstm_cell", kernel="kernel", bias="bias"):
    return {f"{scope}/{kernel}": np.zeros((I + N, 4 * N), "f"), f"{scope}/{bias}": np.zeros(4 * N, "f")}


def haiku(name, width=I):
    return {f"{name}/linear/w": np.zeros((width + N, 4 * N), "f"), f"{name}/linear/b": np.zeros(4 * N, "f")}
