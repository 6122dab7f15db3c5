"""Ctrl-C ends the command in one line, wherever it comes."""

import os
import signal
import subprocess
import sys

import pytest

from support.places import ROOT

SCRIPT = "from fusedlstm.cli.main import main\nimport sys\nsys.exit(main())\n"
WAYS = ["-m", "-mfusedlstm", "fusedlstm", "fusedlstm.exe"]
# Where the interrupt comes. The script is called fusedlstm, has imported the package, and runs `info`.
PLACES = {
    "during imports": "interrupt()\nsys.exit(main(['info']))",
    "in the command": "main_module.blas.describe = interrupt\nsys.exit(main(['info']))",
    "during a lazy import": "main_module.blas.describe = replaced\nsys.exit(main(['info']))",
    "in a finalizer": "main_module.blas.describe = finalized\nsys.exit(main(['info']))",
    "at the exit": "main(['info'])\ninterrupt()",
    "twice": "main_module.blas.describe = interrupt\nmain(['info'])\ninterrupt()",
}
BEFORE = """
import signal, sys
import fusedlstm.cli.main as main_module
from fusedlstm.cli.main import main

def interrupt():
    signal.raise_signal(signal.SIGINT)

def replaced():
    try:
        interrupt()
    except KeyboardInterrupt:
        raise ImportError("numpy._core.multiarray failed to import") from None

class Finalized:
    def __del__(self):
        interrupt()

def finalized():
    Finalized()
"""
FOUR_COMMANDS = """
describe, main_module.blas.describe = main_module.blas.describe, interrupt
statuses = [main(["info"]), main(["run", "missing", "missing"]), main(["info"])]
main_module.blas.describe = describe
print([*statuses, main(["info"])])
"""


def started(folder, arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), *sys.path])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def assert_one_line(done, *statuses):
    assert done.stderr == "fusedlstm: interrupted\n"
    assert done.returncode in statuses if os.name == "posix" else done.returncode != 0


@pytest.mark.parametrize("place", PLACES)
def test_interrupt_is_one_line(place, tmp_path):
    (tmp_path / "fusedlstm").write_text(BEFORE + PLACES[place])
    done = started(tmp_path / "nothing", [str(tmp_path / "fusedlstm")])
    assert_one_line(done, 130)
    assert ("NumPy's BLAS" in done.stdout) == (place == "at the exit")


# C modules of NumPy print a KeyboardInterrupt and raise ImportError.
@pytest.mark.parametrize("numpy", ["import signal; signal.raise_signal(signal.SIGINT)", "raise KeyboardInterrupt"])
@pytest.mark.parametrize("way", WAYS)
def test_interrupt_during_imports_is_one_line(way, numpy, tmp_path):
    """The import of NumPy takes long enough for people to press Ctrl-C."""
    (tmp_path / "numpy.py").write_text(numpy)
    if way.startswith("fusedlstm"):
        (tmp_path / way).write_text(SCRIPT)
        way = str(tmp_path / way)
    done = started(tmp_path, [way, *(["fusedlstm"] if way == "-m" else []), "info"])
    assert_one_line(done, 130, *([-signal.SIGINT] if numpy.startswith("raise") else []))


def test_command_after_an_interrupt_begins_anew(tmp_path):
    """An earlier command's interrupt hides neither a later error nor the line of a later interrupt."""
    (tmp_path / "fusedlstm").write_text(BEFORE + FOUR_COMMANDS)
    done = started(tmp_path / "nothing", [str(tmp_path / "fusedlstm")])
    told = done.stderr.splitlines()
    assert done.stdout.splitlines()[-1] == "[130, 1, 130, 0]"
    assert [told[0], told[2]] == ["fusedlstm: interrupted"] * 2
    assert len(told) == 3
    assert "missing" in told[1]


def test_background_commands_ignore_interrupts(tmp_path):
    """A shell starts them that way."""
    ignore = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    (tmp_path / "fusedlstm").write_text(ignore + BEFORE + PLACES["during imports"])
    done = started(tmp_path / "nothing", [str(tmp_path / "fusedlstm")])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize(("name", "said"), [("SIGTERM", "terminated"), ("SIGHUP", "hung up")])
@pytest.mark.parametrize("ignored", ["SIGINT", "SIGUSR1"])
def test_commands_in_the_background_end(ignored, name, said, tmp_path):
    """A command in the background ends as others do, also where SIGINT is ignored."""
    ignore = f"import signal\nsignal.signal(signal.{ignored}, signal.SIG_IGN)\n"
    ends = PLACES["in the command"].replace("= interrupt", f"= lambda: signal.raise_signal(signal.{name})")
    (tmp_path / "fusedlstm").write_text(ignore + BEFORE + ends)
    done = started(tmp_path / "nothing", [str(tmp_path / "fusedlstm")])
    assert (done.returncode, done.stderr) == (128 + getattr(signal, name), f"fusedlstm: {said}\n")


def test_imports_in_other_programs_are_left_alone(tmp_path):
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "program.py").write_text("import fusedlstm")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import fusedlstm")  # imported while Python looks for the module
    (tmp_path / "package" / "train.py").touch()
    for arguments in (
        ["-c", "import fusedlstm"],
        ["-m", "program", "fusedlstm"],
        ["-m", "package.train", "--lib", "fusedlstm"],
        ["-Xfaulthandler", "-m", "package.train", "-m", "fusedlstm"],
        [str(tmp_path / "program.py")],
    ):
        assert "Traceback" in started(tmp_path, arguments).stderr


def test_handlers_of_other_programs_stay(tmp_path):
    program = "import signal, sys\nfrom fusedlstm.cli.main import main\nmain(['info'])\n"
    (tmp_path / "program.py").write_text(
        f"{program}assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "assert sys.excepthook is sys.__excepthook__\nassert sys.unraisablehook is sys.__unraisablehook__\n"
    )
    done = started(tmp_path / "nothing", [str(tmp_path / "program.py")])
    assert (done.returncode, done.stderr) == (0, "")
