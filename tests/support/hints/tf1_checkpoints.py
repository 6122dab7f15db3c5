"""Hints about TensorFlow's checkpoints. All need TensorFlow."""

import contextlib
import re
import shutil
import sys

import pytest

from fusedlstm import convert

from support.hints.arrays import tf1
from support.hints.case import FOLDER, Case, attempt
from support.places import ORACLES

CHECKPOINT = ORACLES / "tf1" / "checkpoint_multi2" / "model.ckpt-7"


def without_tensorflow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", None)
        convert.from_tf1(CHECKPOINT)


def exported():
    """Run the program in the message, and pass its file."""
    program = attempt(without_tensorflow).partition("variables.npz: ")[2]
    with contextlib.chdir(FOLDER["now"]):
        exec(program, {})
        convert.from_tf1("variables.npz")


def unnamed():
    """Return a folder with a checkpoint, but no file that names the latest one."""
    folder = FOLDER["now"] / "checkpoints"
    shutil.copytree(CHECKPOINT.parent, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint"))
    return folder


def by_path():
    (name,) = re.findall(r"path \((.*?)\)", attempt(lambda: convert.from_tf1(unnamed())))
    convert.from_tf1(unnamed() / name.removesuffix(".index"))


def by_objects():
    return {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": array for name, array in tf1().items()}


def by_names():
    """Save variables by name, and return the path of the checkpoint."""
    from tensorflow.compat import v1

    with v1.Graph().as_default(), v1.Session() as session:
        for name, array in tf1().items():
            v1.get_variable(name, initializer=array)
        session.run(v1.global_variables_initializer())
        return v1.train.Saver().save(session, str(FOLDER["now"] / "model.ckpt"))


CASES = {
    "a checkpoint without TensorFlow": Case(without_tensorflow, exported, "tensorflow"),
    "a folder without a latest checkpoint": Case(lambda: convert.from_tf1(unnamed()), by_path, "tensorflow"),
    "an object-based checkpoint": Case(
        lambda: convert.from_tf1(by_objects()), lambda: convert.from_tf1(by_names()), "tensorflow"
    ),
}
