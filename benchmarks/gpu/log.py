"""log.txt: the output of every part, after a line "== NAME", as it comes. A long one keeps its start and its end."""

import re

_EXCEPTION = re.compile(r"[\w.]+(Error|Exception): ")
BEGIN, END = 64 << 10, 448 << 10  # bytes


class Log:
    """The log of a run."""

    def __init__(self, path):
        self.path = path
        self.start = 0
        path.write_bytes(b"")

    def begin(self, name):
        """Begin a part."""
        with open(self.path, "ab") as file:
            file.write(f"\n== {name}\n".encode())
            self.start = file.tell()

    def end(self):
        """Shorten the part's output if it is long, and return its last exception, or its last line."""
        with open(self.path, "r+b") as file:
            file.seek(self.start)
            output = file.read()
            if len(output) > BEGIN + END:
                left_out = len(output) - BEGIN - END
                file.seek(self.start + BEGIN)
                file.write(b"\n... %d bytes left out ...\n" % left_out + output[-END:])
                file.truncate()
        lines = output[-END:].decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if _EXCEPTION.match(line)]
        return (errors or lines or [""])[-1].strip()
