"""Convert a file of another system, for the command `fusedlstm convert`."""

from __future__ import annotations

import inspect
import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import files
from fusedlstm.arrays import dtypes
from fusedlstm.atomic_write import check_target, is_replaceable, replace
from fusedlstm.convert.archives import open_archive
from fusedlstm.convert.checking import check
from fusedlstm.convert.parts import parts_of
from fusedlstm.convert.recognise import recognise
from fusedlstm.convert.systems import BY_NAME, SYSTEMS
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import check_choice, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fusedlstm.convert.record import System
    from fusedlstm.state import LSTMState
    from fusedlstm.weights import LSTMWeights

# Other names that some functions have for an argument of the command.
_OTHER_NAMES = {"name": "prefix", "gate_activation": "recurrent_activation"}


WRITTEN, DIFFERS, NOT_CHECKED = 0, 1, 3  # exit statuses of the command


def convert_file(
    source: str,
    out: str,
    *,
    system: str = "auto",
    name: str | None = None,
    options: Mapping[str, Any],
    checked: bool,
    force: bool = False,
    state_out: str | None = None,
) -> tuple[int, list[str]]:
    """Convert a file, write the result, and return the command's exit status and its lines of output.

    If the source's framework disagrees, nothing is written. If `checked` is set but nothing could be checked, the
    result is written and the status is NOT_CHECKED.

    Args:
        source: the path of a file or checkpoint.
        out: the path of the safetensors file to write.
        system: the name of a system, or "auto" to recognise it.
        name: which LSTM of the file; None for the only one. Commas separate several layers, lowest first.
        options: arguments of the system's function, by our names, that its files don't hold.
        checked: whether to compare with the source's framework.
        force: whether to overwrite `out` and `state_out`.
        state_out: where to write the source's constant initial state, as arrays h0, c0, h1, ...; if None, such a
            state raises.

    Raises:
        OSError, TypeError, ValueError: the file can't be read, converted or written; the message says why.
        ImportError: a library that reads such files is not installed.
    """
    check_choice("--from", system, ("auto", *sorted(known.name for known in SYSTEMS if known.source)))
    found = _check_outs(source, out, state_out, system, force=force)
    read = found.read
    assert read is not None, "each system with a source has it"
    arguments = _arguments(found, read, {"name": _names(name)} | dict(options))
    states = None
    if state_out is not None:
        if found.initial_state is None:
            able = ", ".join(known.name for known in SYSTEMS if known.initial_state is not None)
            fail(ValueError, "--initial-state", f"nothing, as it is supported only for {able} files", repr(state_out))
        arguments["initial_state"] = "separate"
        states = found.initial_state(source, arguments.get("name"))
    given = source if found.source == "path" else open_archive(source)
    weights: LSTMWeights | StackedWeights = read(given, **arguments)
    _check_count(name, weights)
    said = [f"{source}: read as {found.name}{_taken(found, given, name)}", *_describe(weights)]
    status = WRITTEN
    if checked:
        status, verdict = _compare(found.name, given, arguments, weights)
        said.append(verdict)
    if status == DIFFERS:
        said.append("nothing was written")
    else:
        weights.save(out)
        said.append(f"written: {out}")
        if states is not None and state_out is not None:
            _save_states(state_out, states)
            said.append(f"written: {state_out}")
    return status, said


def _check_outs(source: str, out: str, state_out: str | None, system: str, *, force: bool) -> System:
    """Return the source's system. Raise if an output is part of the source, or exists and `force` is not set.

    An output may be a pipe. The source may not.
    """
    files.refuse_pipe(source)
    outs = {"OUT": out} | ({} if state_out is None else {"--initial-state": state_out})
    parts = {"SOURCE": source} | parts_of(source)
    for name, path in outs.items():
        check_target(name, path, parts | {other: outs[other] for other in outs if other != name})
        if os.path.exists(path) and is_replaceable(path) and not force:
            fail(ValueError, name, "a file that does not exist yet", repr(path), "Use --force to overwrite it")
    found = BY_NAME[recognise(source) if system == "auto" else system]
    for name, path in outs.items():
        if found.parts is not None and os.path.exists(path):
            check_target(name, path, found.parts(source))
    return found


def _check_count(name: str | None, weights: LSTMWeights | StackedWeights) -> None:
    """Raise if there are fewer layers than names. Then several names mean one LSTM, in branches of an If."""
    names = _names(name)
    if isinstance(names, tuple) and isinstance(weights, StackedWeights) and weights.num_layers < len(names):
        wanted = f"one name for each of {weights.num_layers} layers"
        fail(ValueError, "--name", wanted, ", ".join(map(repr, names)), "Some are the same LSTM: give one of them")


def _save_states(path: str, states: Sequence[LSTMState]) -> None:
    """Write states as `fusedlstm run --state` reads them, with 16-bit numbers as float32."""
    arrays: dict[str, Any] = {}
    for k, state in enumerate(states):
        for part, array in (("h", np.asarray(state.h)), ("c", np.asarray(state.c))):
            arrays[f"{part}{k}"] = array.astype(dtypes.state_dtype(array.dtype), copy=False)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    replace(path, buffer.getvalue())


def _taken(system: System, given: Any, name: str | None) -> str:
    """Return text with the names of the LSTMs that were taken; "" if there is only one, without a name."""
    names = [] if name is None else name.split(",")
    if name is None and system.taken is not None:
        names = [one for one in system.taken(given) if one]  # not that of a state_dict of the LSTM itself
    if not names:
        return ""
    return ": " + ", ".join(repr(one) + ("" if one else " (no prefix)") for one in names)


def _names(name: str | None) -> str | tuple[str, ...] | None:
    return name if name is None or "," not in name else tuple(name.split(","))


def _arguments(system: System, read: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that were given, by the names of the system's function."""
    taken = inspect.signature(read).parameters
    arguments = {}
    for name, value in given.items():
        if value is None:
            continue
        if name == "custom_classes" and not system.names_classes:
            able = ", ".join(known.name for known in SYSTEMS if known.names_classes)
            wanted = f"nothing, as classes are named only in files of {able}, not of {system.name}"
            fail(ValueError, "--custom-classes", wanted, ",".join(value))
        theirs = name if name in taken else _OTHER_NAMES.get(name, name)
        if theirs not in taken:
            option = f"--{name.replace('_', '-')}"
            fail(ValueError, option, f"nothing, as from_{system.name} has no such argument", str(value))
        if isinstance(value, tuple) and name == "name" and not system.takes_layers:
            fail(ValueError, "--name", f"one name, as from_{system.name} doesn't take several", ",".join(value))
        arguments[theirs] = value
    return arguments


def _describe(weights: LSTMWeights | StackedWeights) -> list[str]:
    """Return a line for each layer and direction."""
    if not isinstance(weights, StackedWeights):
        return [f"  cell: {weights!r}"]
    lines = []
    for k, which in enumerate(weights.slices):
        residual = ", residual" if weights.residual[k] else ""
        for layer, backward in zip(weights.layers[which], weights.backward[which], strict=True):
            direction = "" if weights.is_causal else " backward" if backward else " forward"
            lines.append(f"  layer {k}{direction}: {layer!r}{residual}")
    return lines


def _compare(
    system: str, source: Any, arguments: Mapping[str, Any], weights: LSTMWeights | StackedWeights
) -> tuple[int, str]:
    """Compare with the framework. Return the exit status and a line of output."""
    options = {name: value for name, value in arguments.items() if name not in ("name", "prefix")}
    name = arguments.get("name", arguments.get("prefix"))
    try:
        result = check(system, source, name, weights, options)
    except (ImportError, ValueError) as error:
        return NOT_CHECKED, f"not checked: {error}"
    return WRITTEN if result.agrees else DIFFERS, str(result)
