"""The real NVRTC, in other processes, as NVRTC is fake where the fake driver is installed.

A new process starts when all others are busy. It serves requests from its standard input until this process ends.
"""

import atexit
import functools
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager

_idle = []


def compile_kernel(file, name, arch, flags=()):
    """Do what `compile.compile_kernel` does, with this process's folder of kernels."""
    from fusedlstm.backends.cuda.runtime import sources

    return _ask(sources.folder(), "compile_kernel", file, name, arch, list(flags))


@functools.cache
def architecture(capability):
    """Do what `compile.architecture` does."""
    return _ask(None, "architecture", capability)


@functools.cache
def version():
    """Return the real NVRTC's version, such as "13.0"."""
    return ".".join(map(str, _ask(None, "nvrtc.getVersion")))


@functools.cache
def missing():
    """Return why the real NVRTC can't be used here, or None."""
    try:
        version()
        _ask(None, "cuda_headers")
    except Exception as error:  # CuPy raises several kinds
        return f"NVRTC can't be used here: {error}"
    return None


def _ask(*request):
    """Return a process's answer, or raise its error."""
    with _process() as process:
        pickle.dump(request, process.stdin)
        process.stdin.flush()
        answer, error = pickle.load(process.stdout)
    if error is not None:
        raise error
    return answer


@contextmanager
def _process():
    """Yield a process that no other thread uses."""
    try:
        process = _idle.pop()
    except IndexError:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "support.real_nvrtc"]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(_end, process)
    yield process
    _idle.append(process)


def _end(process):
    process.stdin.close()
    process.wait()
    process.stdout.close()


def _serve():
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # anything else that prints goes to stderr
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(_answer(*request), answers)
        answers.flush()


def _answer(folder, function, *arguments):
    """Return a function's result and None, or None and an error."""
    try:
        from fusedlstm.backends.cuda.runtime import compile as compiler

        if folder is not None:
            compiler.sources.folder = lambda: folder
        return functools.reduce(getattr, function.split("."), compiler)(*arguments), None
    except Exception as error:
        return None, RuntimeError(str(error))


if __name__ == "__main__":
    _serve()
