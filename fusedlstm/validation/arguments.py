"""The basic checks of arguments, and `fail`, which formats every message about an argument.

Shapes are written in the package's letters: "B 4N" is (B, 4N). A message has the argument's name, what was wanted (in
letters and in numbers) and what came. No check looks at an array's values, so none waits for a device.
"""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

AnyPath: TypeAlias = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
_TERM = re.compile(r"(\d*)([A-Z]?)")


def fail(kind: type[Exception], name: str, wanted: str, got: str, hint: str = "") -> NoReturn:
    """Raise an error about an argument, in the form of all such errors."""
    raise kind(f"{name}: wanted {wanted}; got {got}" + (f". {hint}" if hint else ""))


def evaluate(spec: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Turn "B 4N" into numbers: a term is a number, a letter, or both multiplied."""
    # Not a generator: Python keeps memory for generators, which looks like a leak after thousands of calls.
    terms = [_evaluate_term(term, sizes) for term in spec.split()]
    return tuple(terms)


def _evaluate_term(term: str, sizes: Mapping[str, int]) -> int:
    match = _TERM.fullmatch(term)
    if match is None:
        raise ValueError(f"not a term of a shape: {term!r}")
    factor, letter = match.groups()
    return int(factor or 1) * (sizes[letter] if letter else 1)


def check_shape(name: str, shape: tuple[int, ...], spec: str, sizes: Mapping[str, int], hint: str = "") -> None:
    """Raise ValueError unless `shape` is that of `spec`."""
    wanted = evaluate(spec, sizes)
    if shape != wanted:
        letters = _tuple_of(spec.split())
        fail(ValueError, name, f"shape {letters} = {wanted}", f"shape {shape}", hint)


def _tuple_of(terms: list[str]) -> str:
    return f"({', '.join(terms)}{',' if len(terms) == 1 else ''})"


def check_array(name: str, value: Any, array_type: type, place: str, hint: str) -> None:
    """Raise TypeError unless `value` is an array of this library. The hint says how to convert it."""
    if isinstance(value, array_type):
        return
    check_no_grad(name, value)
    if value is None:
        hint = ""
    elif type(value).__name__ == "PackedSequence":
        hint = f"Use xs, lengths = torch.nn.utils.rnn.pad_packed_sequence({name}), and pass lengths=lengths"
    elif type(value).__name__ == "LSTMState":
        hint = f"Pass one of its arrays: {name.removesuffix('.h').removesuffix('.c')}.h or .c"
    fail(TypeError, name, f"a {array_type.__module__}.{array_type.__name__} ({place})", describe_type(value), hint)


def check_no_grad(name: str, value: Any) -> None:
    """Raise TypeError for a tensor that requires grad, because no gradient flows through a step."""
    if getattr(value, "requires_grad", False) is True:
        fail(
            TypeError,
            name,
            "an array without gradient",
            "a tensor that requires grad",
            f"Use {name}.detach(). To train, use fusedlstm.torch",
        )


def check_dtype(name: str, dtype: np.dtype[Any], wanted: np.dtype[Any], why: str, hint: str = "") -> None:
    """Raise TypeError unless `dtype` is the wanted one. Nothing is cast silently."""
    if dtype == wanted:
        return
    if not hint and dtype.kind == "c":
        hint = "An LSTM takes real numbers: pass the real part"
    elif not hint:
        hint = f'Use {name}.astype("{wanted}")'
    fail(TypeError, name, f"dtype {wanted} ({why})", f"dtype {dtype}", hint)


def check_bool(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        fail(TypeError, name, "a bool", describe_type(value))


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        fail(ValueError, name, f"one of {', '.join(map(repr, choices))}", repr(value))


def check_size(name: str, value: Any, least: int) -> int:
    """Return `value` as an int of at least `least`, or raise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        fail(TypeError, name, "an int", describe_type(value))
    if value < least:
        fail(ValueError, name, f"at least {least}", str(value))
    return int(value)


def check_threads(threads: Any) -> int | None:
    """Return a number of threads, or None for the default, or raise."""
    return None if threads is None else check_size("threads", threads, 1)


def check_clip(name: str, value: Any) -> float | None:
    """Return a clip as a float (None is off, 0.0 clips to zero), or raise."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        fail(TypeError, name, "a number, or None for no clip", describe_type(value))
    if not value >= 0:
        fail(ValueError, name, "a number >= 0, or None for no clip", str(value))
    return check_real(name, value, finite=False)


def check_real(name: str, value: Any, *, finite: bool = True) -> float:
    """Return a real number as a float, or raise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        fail(TypeError, name, "a number", describe_type(value))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if finite and not math.isfinite(number):
        fail(ValueError, name, "a finite number", str(value))
    return number


def check_path(name: str, path: Any) -> str:
    """Return a path as a str. Raise for a file descriptor or an open file, so that none is closed here."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        hint = "Pass the file's path: descriptors and open files are not accepted" if _is_open_file(path) else ""
        fail(TypeError, name, "a path: a str, bytes or os.PathLike", describe_type(path), hint)
    decoded = os.fsdecode(path)
    if "\0" in decoded:
        fail(ValueError, name, "a path without null characters", repr(decoded))
    return decoded


def _is_open_file(value: Any) -> bool:
    return isinstance(value, int) or hasattr(value, "read") or hasattr(value, "write")


def describe_type(value: Any) -> str:
    """Return the full name of a value's type, as `got` in an error."""
    kind = type(value)
    return "None" if value is None else f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
