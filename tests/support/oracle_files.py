"""Recorded outputs of other systems (`oracles/README.md`), and their tolerances."""

import json
import re

import ml_dtypes
import numpy as np

from support.places import ORACLES as FOLDER

# Absolute, for one step from the recorded previous state.
TOLERANCE = {"float64": 1e-12, "float32": 3e-6, "float16": 8e-3, "bfloat16": 6e-2}


def names(pattern):
    """Return the oracle files that match. Fail if there are none, as the test would test nothing."""
    found = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob(pattern))
    assert found, pattern
    return found


class Oracle:
    """One file: arrays by name, `meta`, and the original dtype."""

    def __init__(self, name):
        with np.load(FOLDER / name) as file:
            self.arrays = {key: file[key] for key in file.files if key != "meta"}
            self.meta = json.loads(str(file["meta"]))
        self.dtype = self.meta.get("dtype") or (str(self.arrays["x"].dtype) if "x" in self.arrays else "float32")
        if self.dtype == "bfloat16":  # stored as float32
            self.arrays = {key: a.astype(ml_dtypes.bfloat16) for key, a in self.arrays.items()}
        self.tolerance = TOLERANCE[self.dtype]

    def __getitem__(self, key):
        return self.arrays[key]

    def variables(self):
        """Return the weights by their names in the framework."""
        return {key[2:].replace(".", "/"): a for key, a in self.arrays.items() if key.startswith("W_")}

    def tree(self):
        """Return JAX's arrays by path. Older files have paths as Python prints them: "['params']['hf']['bias']"."""
        arrays = {}
        for key, array in self.arrays.items():
            if key.startswith("W_"):
                path = re.findall(r"\['(.*?)'\]", key)
                arrays["/".join(path) if path else key[2:].lstrip(".").replace(".", "/")] = array
        return arrays

    def steps(self):
        """Yield each step's x, previous h and c, and next h and c."""
        h, c = self["h0"], self["c0"]
        for x, h_next, c_next in zip(self["x"], self["h_seq"], self["c_seq"], strict=True):
            yield x, h, c, h_next, c_next
            h, c = h_next, c_next
