"""A program's variables by TensorFlow's names, from a mapping or from a file."""

from __future__ import annotations

import bisect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusedlstm.arrays.host import to_host
from fusedlstm.convert.tf1.checkpoint import Checkpoint, open_variables
from fusedlstm.validation.advice import fail_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.arrays.dtypes import NumpyArray


def join(scope: str, name: str) -> str:
    """Return the full name of a variable in a scope, which may be empty."""
    return f"{scope}/{name}" if scope else name


class Variables:
    """Variables by name, read only on access, as others may be huge or not numbers."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._source = source
        self._keys = {str(key).removesuffix(":0"): key for key in source}
        self._sorted = sorted(self._keys)  # sorting puts the names in a scope together

    @classmethod
    def of(cls, variables: Any) -> Variables:
        """Return the variables of a mapping, or of the file at a path.

        Raises:
            TypeError: `variables` is neither.
            WeightsFileError, OSError, ImportError: as open_variables.
        """
        if isinstance(variables, (str, bytes, os.PathLike)):
            variables = open_variables(os.fsdecode(variables))
        if not isinstance(variables, Mapping):
            wanted = "a mapping of names to arrays, or the path of a checkpoint or a .npz file"
            fail_source("variables", wanted, variables)
        return cls(variables)

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def read(self, name: str) -> NumpyArray:
        """Return a variable's values."""
        return to_host(name, self._source[self._keys[name]])

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a variable's shape."""
        if isinstance(self._source, Checkpoint):
            return self._source.shape(self._keys[name])
        return tuple(self.read(name).shape)

    def below(self, scope: str) -> list[str]:
        """Return the names in a scope, without the scope."""
        if not scope:
            return list(self._sorted)
        first, after = (bisect.bisect_left(self._sorted, f"{scope}{end}") for end in "/0")  # 0 follows / in ASCII
        return [name[len(scope) + 1 :] for name in self._sorted[first:after]]

    def scopes_of(self, variable: str) -> list[str]:
        """Return all scopes with a variable of this name."""
        return [name.removesuffix(variable).removesuffix("/") for name in self if f"/{name}".endswith(f"/{variable}")]
