"""The code on the pages of docs/, and in other Markdown."""

import importlib.util
import re

import fusedlstm

from support.places import ROOT

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"# needs (\w+)")


def is_here(name):
    if name == "gpu":
        return "cuda" in fusedlstm.available_backends()
    return name == "tensorflow" or importlib.util.find_spec(name) is not None  # tests provide their own TensorFlow


def blocks(text, language):
    """Yield each block of a language, with the number of lines above it."""
    for found in BLOCK.finditer(text):
        if found[1] == language:
            yield text.count("\n", 0, found.start(2)), found[2]


def run(name, text):
    """Run a page's Python blocks in one namespace. Return it, and what the skipped blocks need."""
    names, missing = {}, []
    for lines_above, block in blocks(text, "python"):
        needed = NEEDS.match(block)
        if needed and not is_here(needed[1]):
            missing.append(needed[1])
        else:
            exec(compile("\n" * lines_above + block, name, "exec"), names)
    return names, missing
