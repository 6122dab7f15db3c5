"""Versions of Keras, and the default that changed between them. Files with only weights don't hold it.

The default `recurrent_activation` of LSTM and LSTMCell:

- hard_sigmoid, 0.2 x + 0.5: Keras up to 2.2.5, and tf.keras of TensorFlow 1 (tested with 1.15.5).
- sigmoid: Keras since 2.3.0 (by its release notes), tf.keras of TensorFlow 2 (tested with 2.21), and Keras 3 (tested
  with 3.15.1).

tf.keras's version is "2.0.8-tf" to "2.1.6-tf" in TensorFlow 1.4 to 1.12, "2.2.4-tf" in 1.13 to 2.1 (either default),
and "2.3.0-tf" in 2.2. Later ones have no suffix. tf.compat.v1.keras.layers.LSTM has hard_sigmoid in all versions, which
files don't record. `activation` has been tanh since Keras 1, and CuDNNLSTM has always had sigmoid and tanh.
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
        major: 2 or 3; 0 if unknown.
        gates: the default of recurrent_activation; None if unknown.
        said: the full version in the file.
    """

    major: int
    gates: Function | None = None
    said: str = ""


UNKNOWN = Version(0)
# `.weights.h5` has no version, but only Keras since 2.12 writes this format.
OF_PATHS = Version(0, "sigmoid", "2.12 or newer")


def version_of(said: Any) -> Version:
    """Return the version that a file names, if any.

    Raises:
        ValueError: it is Keras 1, newer than 3, or not a version.
    """
    if not said:
        return UNKNOWN
    text = str(said)
    match = _VERSION.fullmatch(text)
    if match is None or match[1] not in ("2", "3"):
        hint = ". Load it with Keras 2 and save it again" if match and match[1] in ("0", "1") else ""
        raise ValueError(f"it is from Keras {text:.20}, and only files of Keras 2 and 3 are read{hint}")
    major, minor = int(match[1]), int(match[2] or 0)
    if text.endswith("-tf") and (major, minor) == (2, 2):
        return Version(major, None, text[:20])
    return Version(major, "sigmoid" if (major, minor) >= (2, 3) else _HARD_SIGMOID, text[:20])
