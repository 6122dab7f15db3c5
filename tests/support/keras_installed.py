"""The installed Keras 3 and tf_keras. Keras 3 runs with TensorFlow or, without it, with JAX or PyTorch."""

import importlib.util
import os

import pytest


def keras_or_skip(package):
    """Import "keras" or "tf_keras", with the backend that is set or the first that is installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    installed = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
    if not installed:
        pytest.skip("Keras needs TensorFlow, JAX or PyTorch")
    os.environ.setdefault("KERAS_BACKEND", installed[0])
    return pytest.importorskip(package, reason=f"{package} is not installed", exc_type=ImportError)


def precise(keras):
    """Return the most precise dtype. With JAX, Keras has float64 only if the whole process enables it."""
    on_jax = keras.__name__ == "keras" and keras.backend.backend() == "jax"
    return "float32" if on_jax else "float64"


def major(keras):
    return int(keras.__version__.split(".")[0])
