"""Objects of TorchScript archives. Their attributes are read by name; the code beside them is never read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fusedlstm.convert.torch.pickled import Pairs
from fusedlstm.convert.torch.tensors import Other

if TYPE_CHECKING:
    from collections.abc import Callable

START = "__torch__."  # of the names of an archive's own classes
_BOUND = "__torch__.torch.classes."  # of objects of C++, such as packed quantised weights


@dataclass(frozen=True, slots=True)
class ClassName:
    """The name of an object's class. It stands among the attributes as KEY."""

    KEY: ClassVar[str] = "__class__"
    name: str


class ScriptObject(Pairs):
    """An object's attributes by name, which a pickle sets after it is made."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        super().__init__([])
        self.kind = kind

    def build(self, state: Any) -> None:
        """Set the attributes. Classes with their own __getstate__ have another state, which only their code reads."""
        pairs = state.pairs if isinstance(state, Pairs) else []
        self.pairs = [*pairs, (ClassName.KEY, ClassName(self.kind))]


def made(name: str) -> ScriptObject | Other:
    """Return an object of one of an archive's classes. It doesn't copy the name, as a pickle may repeat it."""
    return Other(name) if name.startswith(_BOUND) else ScriptObject(name)


def _same(arguments: tuple[Any, ...]) -> Any:
    if not arguments:
        raise ValueError("its pickle is damaged: it makes a list without items")
    return arguments[0]


# Functions that give lists and dicts their types.
CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    f"torch.jit._pickle.{name}": _same
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
}
