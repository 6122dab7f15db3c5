"""Unpickle what torch.save writes, without PyTorch and without executing anything.

A pickle is a program for a small stack machine. PyTorch's safe mode runs it, and lets it call a list of functions.
Some of those allocate as much memory as a number in the file says. Dict keys are hashed, and a few hundred bytes can
make that endless. This machine calls nothing and hashes nothing from the file. Each instruction does only as much work
as its own bytes account for, so time and memory are proportional to the pickle's length. An object that it can't
represent becomes an `Other`, and the tensors beside it can still be read.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any, NoReturn

from fusedlstm.convert.torch import numpy_values, scripts
from fusedlstm.convert.torch.pickled import Global, Pairs, Stream
from fusedlstm.convert.torch.tensors import Other, Storage, StoredTensor

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_KEY = 64  # parts of a tuple used as a key
_MOST_COPIES = 1_000_000
_SAFE_INT = 2**61 - 1  # Python's hashes of integers repeat from here on

_STORAGE = re.compile(r"torch\.(?:cuda\.|storage\.)?_?\w*Storage")
_DTYPE = re.compile(
    r"torch\.(?:bfloat|float|double|half|uint|int|long|short|bool|complex|cfloat|cdouble|chalf|quint|qint|bits|per_)\w*"
)
_DICT = "collections.OrderedDict"
_PARAMETER = "torch.nn.parameter.Parameter"
_TENSOR_TYPES = (_PARAMETER, "torch.Tensor", "torch._tensor.Tensor")
# Other names that PyTorch's safe mode allows, and what an error calls their objects. None of them is called.
_OTHERS = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor on the device meta",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch.nested._internal.nested_tensor._rebuild_njt": "nested",
    "torch.nested._internal.nested_tensor.NestedTensor": "nested",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of another class",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "torch._dynamo.decorators._DimRange": "a range of sizes",
    "torch.serialization._get_layout": "a layout",
    "torch.device": "a device",
    "collections.Counter": "a Counter",
    "torch.Tensor": "a tensor of PyTorch before 0.2",
    "builtins.bytearray": "bytes",
    "builtins.set": "a set",
    "builtins.complex": "a complex number",
}
_HELP = (
    "which are not unpickled: save module.state_dict() or, if you trust the file, pass "
    "torch.load(path, weights_only=False) as source"
)


class Unpickler:
    """Interpreter of one pickle.

    Args:
        stream: the pickle.
        storage: a function that returns a storage, given how the pickle identifies it.
        is_script: whether it is TorchScript's, with objects of an archive's own classes.

    Attributes:
        is_plain: whether PyTorch's own safe mode needs no more work than this machine. If so, nothing became an
            `Other`, and keys are strings and small integers.
    """

    def __init__(
        self, stream: Stream, storage: Callable[[tuple[Any, ...]], Storage], *, is_script: bool = False
    ) -> None:
        self._stream, self._storage, self._is_script = stream, storage, is_script
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self._copies = min(stream.left, _MOST_COPIES)  # how many more values may be copied or examined
        self.is_plain = True

    def load(self) -> Any:
        """Return the pickled object: None, numbers, strings, lists, tuples, Pairs, StoredTensors and Others.

        Raises:
            ValueError: the pickle is damaged, or has objects that PyTorch's safe mode refuses.
        """
        while (code := self._stream.take(1)) != b".":
            operation = _OPERATIONS.get(code)
            if operation is None:
                self._refuse(code)
            operation(self)
        return self._pop()

    def _refuse(self, code: bytes) -> NoReturn:
        raise ValueError(
            f"its pickle has the instruction {code!r}, which is not in protocol 2: it is damaged, or was saved with a "
            "pickle_protocol or pickle_module other than torch.save's default"
        )

    def _pop(self) -> Any:
        if not self._stack:
            raise ValueError("its pickle is damaged: it pops from an empty stack")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise ValueError("its pickle is damaged: it uses the top of an empty stack")
        return self._stack[-1]

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._stream.take(struct.calcsize(code)))[0]

    def _above_mark(self) -> list[Any]:
        if not self._below:
            raise ValueError("its pickle is damaged: it has no mark where one is needed")
        items, self._stack = self._stack, self._below.pop()
        return items

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _proto(self) -> None:
        if self._number("B") != 2:
            raise ValueError("its pickle is not in protocol 2: save it with torch.save's default pickle_protocol")

    def _global(self) -> None:
        name = f"{self._stream.line()}.{self._stream.line()}".replace("__builtin__.", "builtins.", 1)
        known = name in _CALLS or name in _OTHERS or name in _TENSOR_TYPES or name in numpy_values.NAMES
        known = known or (self._is_script and (name.startswith(scripts.START) or name in scripts.CALLS))
        if not (known or _STORAGE.fullmatch(name) or _DTYPE.fullmatch(name)):
            raise ValueError(f"it holds Python objects, such as a whole module (here: {name}), {_HELP}")
        self._push(Global(name))

    def _long(self) -> None:
        self._push(int.from_bytes(self._stream.take(self._number("B")), "little", signed=True))

    def _text(self, code: str) -> None:
        self._push(str(self._stream.take(self._number(code)), "utf-8", "surrogatepass"))

    def _get(self, code: str) -> None:
        index = self._number(code)
        if index not in self._memo:
            raise ValueError("its pickle is damaged: it refers to a value that isn't in its memo")
        self._push(self._memo[index])

    def _put(self, code: str) -> None:
        self._memo[self._number(code)] = self._top()

    def _tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self._push(tuple(reversed(items)))

    def _append(self, items: list[Any]) -> None:
        if type(self._top()) is not list:
            raise ValueError("its pickle is damaged: it appends to an object that is not a list")
        self._stack[-1].extend(items)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, Pairs) or len(items) % 2:
            raise ValueError("its pickle is damaged: it sets items of an object that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target.pairs.append((self._key(key), value))

    def _key(self, key: Any) -> Any:
        """Return a key, or raise if this can't be one. Note keys that PyTorch's dicts may take long to hash."""
        if isinstance(key, str) or (isinstance(key, int) and abs(key) < _SAFE_INT):
            return key
        self.is_plain = False
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) > _LONGEST_KEY:
            raise ValueError(f"a dict has a key of {len(parts)} parts")
        parts = tuple(map(numpy_values.number, parts))
        for part in parts:
            if not isinstance(part, (str, int, float, complex, tuple, type(None), Global, Other, numpy_values.Text)):
                raise ValueError(f"its pickle is damaged: a {type(part).__name__} is a key of a dict")
        return parts if isinstance(key, tuple) else parts[0]

    def _persistent(self) -> None:
        identity = self._pop()
        if not isinstance(identity, tuple):
            raise ValueError("its pickle is damaged: it refers to a storage without a tuple")
        self._push(self._storage(identity))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError("its pickle is damaged: it calls an object that is not a function")
        self._push(self._call(function.name, arguments))

    def _new(self) -> None:
        """Make an object. Only the arguments of a Parameter are examined."""
        arguments, kind = self._pop(), self._pop()
        if not isinstance(kind, Global) or not isinstance(arguments, tuple):
            raise ValueError("its pickle is damaged: it makes an object without a class")
        if kind.name == _PARAMETER or (kind.name == _DICT and not arguments):
            self._push(self._call(kind.name, arguments))
        elif kind.name.startswith(scripts.START):
            self.is_plain = False
            self._push(scripts.made(kind.name))
        else:
            self.is_plain = False
            self._push(Other(_OTHERS.get(kind.name, kind.name)))

    def _build(self) -> None:
        """Set what NumPy and TorchScript set after an object is made. Raise for the attributes of a tensor.

        Drop the attributes of a dict, or of a Parameter of PyTorch before 0.4.
        """
        state, target = self._pop(), self._top()
        if isinstance(target, scripts.ScriptObject):
            self._spend(len(state) if isinstance(state, Pairs) else 0)
        if isinstance(target, (scripts.ScriptObject, numpy_values.Dtype, numpy_values.Array)):
            target.build(state)
            return
        if isinstance(target, Pairs):
            return
        if isinstance(target, Other):
            return
        is_old = isinstance(state, tuple) and len(state) == 3 and isinstance(state[0], bool)  # requires_grad, ...
        if isinstance(target, StoredTensor) and is_old:
            self.is_plain = False
            return
        raise ValueError("it has a tensor whose values are set after it is made, which is not supported")

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Return the result of one of PyTorch's functions; an Other if it is not supported."""
        call = _CALLS.get(name)
        if call is not None:
            return call(self, arguments)
        self.is_plain = False
        other = numpy_values.CALLS.get(name) or scripts.CALLS.get(name)
        return Other(_OTHERS.get(name, name)) if other is None else other(arguments)

    def _spend(self, count: int) -> None:
        """Bound the work on values that the pickle may reuse."""
        self._copies -= count
        if self._copies < 0:
            raise ValueError("its pickle reuses the same values too often")

    def _dict(self, arguments: tuple[Any, ...]) -> Pairs:
        if not arguments:
            return Pairs([])
        # Python 2 wrote an OrderedDict as a list of two-element lists.
        items = arguments[0] if len(arguments) == 1 else None
        if not isinstance(items, list):
            raise ValueError("its pickle is damaged: it makes a dict without items")
        self._spend(len(items))
        made = Pairs([])
        for item in items:
            if not isinstance(item, (list, tuple)) or len(item) != 2:
                raise ValueError("its pickle is damaged: it makes a dict without items")
            made.pairs.append((self._key(item[0]), item[1]))
        return made

    def _size(self, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) == 1 and isinstance(arguments[0], tuple):
            return arguments[0]
        raise ValueError("its pickle is damaged: it has a torch.Size without sizes")

    def _parameter(self, arguments: tuple[Any, ...]) -> Any:
        """Return the tensor of a Parameter. The other arguments are for autograd."""
        if arguments and isinstance(arguments[0], (StoredTensor, Other)):
            return arguments[0]
        self.is_plain = False
        return Other("a Parameter without values")

    def _parameter_with_state(self, arguments: tuple[Any, ...]) -> Any:
        return self._with_state(self._parameter(arguments), arguments[3] if len(arguments) == 4 else None)

    def _of_type(self, arguments: tuple[Any, ...]) -> Any:
        """Return a tensor that was saved with attributes; an Other unless its class is PyTorch's own."""
        if len(arguments) != 4 or not isinstance(arguments[0], Global) or not isinstance(arguments[1], Global):
            raise ValueError("its pickle is damaged: it makes a tensor without a class")
        function, kind, inner, state = arguments
        if function.name not in _TENSOR_CALLS or not isinstance(inner, tuple) or kind.name not in _TENSOR_TYPES:
            self.is_plain = False
            return Other(_OTHERS.get(function.name, kind.name))
        return self._with_state(self._call(function.name, inner), state)

    def _with_state(self, tensor: Any, state: Any) -> Any:
        """Return a tensor whose attributes were set; an Other if they may replace its values."""
        self.is_plain = False
        pairs = state.pairs if isinstance(state, Pairs) else []
        self._spend(len(pairs))
        changed = any(isinstance(key, str) and key in ("data", "__class__") for key, _ in pairs)
        return Other("a tensor whose values are set after it is made") if changed else tensor

    def _tensor(self, arguments: tuple[Any, ...], dtype_at: int | None, metadata_at: int) -> Any:
        if len(arguments) < 4 or not isinstance(arguments[0], Storage):
            if arguments and isinstance(arguments[0], Other):
                return arguments[0]
            raise ValueError("its pickle is damaged: it makes a tensor without a storage")
        storage, offset, shape, strides = arguments[:4]
        dtype = storage.dtype
        if dtype_at is not None:
            kind = arguments[dtype_at] if len(arguments) > dtype_at else None
            if not isinstance(kind, Global):
                raise ValueError("its pickle is damaged: it makes a tensor without a dtype")
            dtype = kind.name.removeprefix("torch.")
        metadata = arguments[metadata_at] if len(arguments) > metadata_at else None
        if isinstance(metadata, Pairs) and metadata.pairs:
            self.is_plain = False
            return Other("a tensor that is negated or conjugated on access")
        return StoredTensor.checked(storage, dtype, offset, shape, strides)


_CALLS: dict[str, Callable[[Unpickler, tuple[Any, ...]], Any]] = {
    _DICT: Unpickler._dict,
    "torch.Size": Unpickler._size,
    _PARAMETER: Unpickler._parameter,
    "torch._utils._rebuild_tensor": lambda self, arguments: self._tensor(arguments, None, 4),
    "torch._utils._rebuild_tensor_v2": lambda self, arguments: self._tensor(arguments, None, 6),
    "torch._utils._rebuild_tensor_v3": lambda self, arguments: self._tensor(arguments, 6, 7),
    "torch._utils._rebuild_parameter": Unpickler._parameter,
    "torch._utils._rebuild_parameter_with_state": Unpickler._parameter_with_state,
    "torch._tensor._rebuild_from_type_v2": Unpickler._of_type,
}
_TENSOR_CALLS = [name for name in _CALLS if name.startswith("torch._utils.")]

_OPERATIONS: dict[bytes, Callable[[Unpickler], None]] = {
    b"\x80": Unpickler._proto,
    b"(": Unpickler._mark,
    b"c": Unpickler._global,
    b"R": Unpickler._reduce,
    b"\x81": Unpickler._new,
    b"b": Unpickler._build,
    b"Q": Unpickler._persistent,
    b"a": lambda self: self._append([self._pop()]),
    b"e": lambda self: self._append(self._above_mark()),
    b"s": Unpickler._set_item,
    b"u": lambda self: self._set_items(self._above_mark()),
    b"t": lambda self: self._push(tuple(self._above_mark())),
    b")": lambda self: self._push(()),
    b"\x85": lambda self: self._tuple(1),
    b"\x86": lambda self: self._tuple(2),
    b"\x87": lambda self: self._tuple(3),
    b"]": lambda self: self._push([]),
    b"}": lambda self: self._push(Pairs([])),
    b"N": lambda self: self._push(None),
    b"\x88": lambda self: self._push(True),
    b"\x89": lambda self: self._push(False),
    b"J": lambda self: self._push(self._number("<i")),
    b"K": lambda self: self._push(self._number("B")),
    b"M": lambda self: self._push(self._number("<H")),
    b"G": lambda self: self._push(self._number(">d")),
    b"\x8a": Unpickler._long,
    b"X": lambda self: self._text("<I"),
    b"U": lambda self: self._text("B"),
    b"h": lambda self: self._get("B"),
    b"j": lambda self: self._get("<I"),
    b"q": lambda self: self._put("B"),
    b"r": lambda self: self._put("<I"),
}
