"""Errors of importers in the words of the command: `prefix=` is its option --name, and so on."""

from __future__ import annotations

import re

# The command's options, by the names of the functions' arguments.
_OPTIONS = {
    "prefix": "--name",
    "name": "--name",
    "forget_bias": "--forget-bias",
    "cell_clip": "--cell-clip",
    "proj_clip": "--proj-clip",
    "zoneout": "--zoneout",
    "custom_classes": "--custom-classes",
    "activation": "--activation",
    "gate_activation": "--gate-activation",
    "recurrent_activation": "--gate-activation",
}
_NAMES = "|".join(_OPTIONS)
_SEPARATE = re.compile(r'initial_state="separate", and read (?:it|them) with [\w.]+(?: \([^()]*\))?')
_FUNCTION = re.compile(r"""\(['"](\w+)['"], ([\d./, -]+)\)""")
_CLASSES = re.compile(r"custom_classes=[\[(]'([^']*)',?[\])]")
_GIVEN = re.compile(rf"\b({_NAMES})=(?![\[(])")
_BLAMED = re.compile(r"(^|: )(prefix|name|forget_bias|cell_clip|proj_clip|zoneout|custom_classes): wanted")


def as_options(message: str) -> str:
    """Return an importer's message with the command's options in place of the function's arguments."""
    message = _SEPARATE.sub("--initial-state S.npz", message)
    message = _FUNCTION.sub(lambda match: ":".join((match[1], *match[2].split(", "))), message)
    message = _CLASSES.sub(r"--custom-classes \1", message)
    message = _GIVEN.sub(lambda match: f"{_OPTIONS[match[1]]} ", message).replace("math.inf", "inf")
    message = _BLAMED.sub(lambda match: f"{match[1]}{_OPTIONS[match[2]]}: wanted", message)
    return re.sub(r"(--[a-z-]+) (?= |,|\.|$)", r"\1", message)
