"""Versions of Keras, and the default that they changed and files of weights don't hold.

`recurrent_activation` of LSTM and LSTMCell, where nothing was given:

- hard_sigmoid, 0.2 x + 0.5: Keras up to 2.2.5, and tf.keras of TensorFlow 1 (1.15.5: tried).
- sigmoid: Keras since 2.3.0 (its release notes), tf.keras of TensorFlow 2 (2.21: tried), Keras 3 (3.15.1: tried).

tf.keras says "2.0.8-tf" to "2.1.6-tf" in TensorFlow 1.4 to 1.12, "2.2.4-tf" in 1.13 to 2.1, where the default was
either, and "2.3.0-tf" in 2.2. Later ones have no suffix. tf.compat.v1.keras.layers.LSTM has hard_sigmoid in all of
them, which no file says. `activation` has been tanh since Keras 1, and CuDNNLSTM has always had sigmoid and tanh.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusedlstm.functions import Function

_HARD_SIGMOID: Function = ("hard_sigmoid", 0.2, 0.5)
_VERSION = re.compile(r"(\d{1,4})(?:\.(\d{1,4}))?(?:[^0-9A-Za-z].*)?", re.DOTALL)


@dataclass(frozen=True)
class Version:
    """The Keras that made a model or a file.

    Attributes:
        major: 2 or 3; 0 where nothing says.
        gates: the default of recurrent_activation; None where it is not known.
        said: the version in full, as a file says it.
    """

    major: int
    gates: Function | None = None
    said: str = ""


UNKNOWN = Version(0)
# `.weights.h5` says no version, but Keras has written this format since 2.12 only.
OF_PATHS = Version(0, "sigmoid", "2.12 or newer")


def version_of(said: Any) -> Version:
    """Return the version that a file says, which may be nothing.

    Raises:
        ValueError: Keras 1, one newer than 3, or not a version.
    """
    if not said:
        return UNKNOWN
    text = str(said)
    match = _VERSION.fullmatch(text)
    if match is None or match[1] not in ("2", "3"):
        hint = ". Load it with Keras 2 and save it again" if match and match[1] in ("0", "1") else ""
        raise ValueError(f"it is of Keras {text:.20}, and files of Keras 2 and 3 are read{hint}")
    major, minor = int(match[1]), int(match[2] or 0)
    if text.endswith("-tf") and (major, minor) == (2, 2):
        return Version(major, None, text[:20])
    return Version(major, "sigmoid" if (major, minor) >= (2, 3) else _HARD_SIGMOID, text[:20])
