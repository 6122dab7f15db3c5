"""The record of a system: all that recognition, the command, checks and tests know about it.

A system is a library, framework or file format that has LSTMs. Its record is at the end of its file, or in
`system.py` of its folder. `systems.py` collects all records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fusedlstm.convert.layout import Layout
    from fusedlstm.convert.states import Pairs


@dataclass(frozen=True)
class Signs:
    """How a file shows which system wrote it.

    Attributes:
        at: whether a path belongs to this system, such as a checkpoint's prefix.
        start: a pattern that the first 16 bytes match.
        members: patterns of names of a zip file's members. Each must match one.
        array: a pattern of names of arrays. One must match.
        refused: the error for such a file, if `read` can't take it or another system's files may look the same.
        alike: the names of systems whose arrays may have such names, too.
    """

    at: Callable[[str], bool] | None = None
    start: bytes = b""
    members: tuple[str, ...] = ()
    array: str = ""
    refused: str = ""
    alike: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class System:
    """A system: how its files look, and the functions that read and write them.

    Attributes:
        name: its name for the command, and at the end of its functions' names.
        layouts: where it keeps a cell's arrays. No two systems have a layout of the same name.
        read: its `from_*`; None if only states are converted.
        others: its other public functions.
        source: what the command passes to `read`; "" if the command can't convert such files.
        takes_layers: whether `read` takes several names, one for each layer from the bottom up.
        taken: lists the names of the LSTMs that `read` takes when no name is given; None without such a list.
        initial_state: takes a source and a name, and returns the constant initial state.
        parts: returns the other files that belong to a source, by their names in errors.
        names_classes: whether its files name classes, which users can vouch for with `custom_classes`.
        signs: how a file shows that it is this system's.
        framework: the package that checks use. `running/<name>.py` runs it.
        pairs: the form of its states, for one cell and for several.
    """

    name: str
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    read: Callable[..., Any] | None = None
    others: tuple[Callable[..., Any], ...] = ()
    source: Literal["path", "arrays", ""] = ""
    takes_layers: bool = False
    taken: Callable[[Any], list[str]] | None = None
    initial_state: Callable[[Any, Any], Any] | None = None
    parts: Callable[[str], dict[str, str | None]] | None = None
    names_classes: bool = False
    signs: Signs = Signs()
    framework: str = ""
    pairs: Pairs | None = None
