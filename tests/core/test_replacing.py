"""Test that saves are all or nothing, that errors name the path, and that the next save cleans up."""

import contextlib
import errno
import io
import multiprocessing
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMWeights, StackedWeights, StatePool, WeightsFileError, atomic_write
from fusedlstm.atomic_write import check_target, replace
from fusedlstm.stacked import load_weights

from support import moments
from support.places import ROOT

ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.fusedlstm-tmp")


def weights(seed=0):
    return LSTMWeights.random(2, 3, seed=seed)


def pool():
    made = StatePool(LSTMCell(weights(), backend="numpy"), 4)
    made.allocate(2)
    return made


def savers():
    """Return the functions that save to a path, by name."""
    return {
        "weights": weights().save,
        "layers": StackedWeights([weights()]).save,
        "pool": pool().save,
        "replace": lambda path: replace(path, b"content"),
    }


def loaders():
    return {"weights": LSTMWeights.load, "layers": StackedWeights.load, "any": load_weights, "pool": pool().load}


SAVERS, LOADERS = ("weights", "layers", "pool", "replace"), ("weights", "layers", "any", "pool")


class BytesPath:
    """An os.PathLike of bytes."""

    def __init__(self, path):
        self.path = os.fsencode(path)

    def __fspath__(self):
        return self.path


FORMS = {"str": str, "bytes": os.fsencode, "Path": Path, "PathLike of bytes": BytesPath}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_paths_are_taken(form, tmp_path):
    """Save and load by a str, bytes, or an os.PathLike of either."""
    for name, save in savers().items():
        save(FORMS[form](tmp_path / name))
        assert (tmp_path / name).stat().st_size
    for name, load in loaders().items():
        load(FORMS[form](tmp_path / ("weights" if name == "any" else name)))


@ON_POSIX
def test_paths_need_not_be_unicode(tmp_path):
    path = os.fsencode(tmp_path) + b"/w\xff"
    try:
        weights().save(path)
    except OSError:
        pytest.skip("the file system allows only Unicode names")
    assert LSTMWeights.load(path).input_size == 2
    Path(os.fsdecode(path)).write_bytes(b"damage, and more")
    with pytest.raises(WeightsFileError, match=r"w\udcff is not a safetensors file"):
        LSTMWeights.load(path)


@pytest.mark.parametrize("form", FORMS)
def test_errors_name_all_forms_of_paths(form, tmp_path):
    path = tmp_path / "absent" / "w"
    for act in (*savers().values(), *loaders().values()):
        with pytest.raises(FileNotFoundError) as caught:
            act(FORMS[form](path))
        assert caught.value.filename == str(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("what", ["descriptor", "bool", "file", "bytes in memory", "None", "list"])
def test_descriptors_and_open_files_are_refused(what, tmp_path):
    """File descriptors and open files raise, and are not closed."""
    path = tmp_path / "w"
    weights().save(path)
    before = path.read_bytes()
    with path.open("r+b") as file:
        given = {
            "descriptor": file.fileno(),
            "bool": True,
            "file": file,
            "bytes in memory": io.BytesIO(before),
            "None": None,
            "list": [str(path)],
        }[what]
        for act in (*savers().values(), *loaders().values()):
            with pytest.raises(TypeError, match="path: wanted a path: a str, bytes or os.PathLike; got "):
                act(given)
        assert os.fstat(file.fileno()).st_size == len(before), "the file should still be open"
    assert path.read_bytes() == before


def test_null_characters_in_paths_are_refused():
    for act in (*savers().values(), *loaders().values()):
        with pytest.raises(ValueError, match="path: wanted a path without null characters; got 'a"):
            act("a\0b")


# Errors of any system call name the given path.

STEPS = {
    "open": ("open", errno.EMFILE),
    "write": ("write", errno.ENOSPC),
    "read-only": ("open", errno.EROFS),
    "sync": ("fsync", errno.EIO),
    "rename": ("replace", errno.EXDEV),
    "look": ("stat", errno.EACCES),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", SAVERS)
def test_errors_while_saving_name_the_path(name, step, tmp_path, monkeypatch):
    path = tmp_path / "w"
    path.write_bytes(b"older")
    save = savers()[name]
    call, number = STEPS[step]

    def fail(*_, **__):
        raise OSError(number, os.strerror(number), "/another/path", None, "/and/one")

    class Full(io.FileIO):
        def write(self, content):
            raise OSError(number, os.strerror(number))  # the system names no file here

    if call in ("open", "write"):
        monkeypatch.setattr(atomic_write, "open", fail if call == "open" else Full, raising=False)
    else:
        monkeypatch.setattr(atomic_write.os, call, fail)
    with pytest.raises(OSError, match=re.escape(str(path))) as caught:
        save(path)
    monkeypatch.undo()
    assert (caught.value.errno, caught.value.filename, caught.value.filename2) == (number, str(path), None)
    assert type(caught.value) is type(OSError(number, ""))
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["w"]


@pytest.mark.parametrize("name", LOADERS)
def test_errors_while_loading_name_the_path(name, tmp_path, monkeypatch):
    path = tmp_path / "w"
    path.write_bytes(b"content")
    load = loaders()[name]

    class Broken(io.BytesIO):
        def read(self, *_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("builtins.open", lambda *_, **__: Broken())
    with pytest.raises(OSError, match=re.escape(str(path))) as caught:
        load(path)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name", SAVERS)
def test_full_device_raises(name):
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        savers()[name]("/dev/full")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@ON_POSIX
def test_closed_pipe_raises(tmp_path):
    pipe, (ours, theirs) = tmp_path / "pipe", socket.socketpair()
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    large = LSTMWeights.random(100, 300, seed=0)  # more than a pipe holds

    def close_soon():
        ours.recv(1)
        time.sleep(0.05)
        os.close(reader)

    worker = threading.Thread(target=close_soon)
    worker.start()
    theirs.send(b".")
    with pytest.raises(BrokenPipeError) as caught:
        large.save(pipe)
    worker.join()
    ours.close()
    theirs.close()
    assert caught.value.filename == str(pipe)


# What a save may replace.


@pytest.mark.parametrize("path", ["", "folder/", "absent/"])
def test_paths_that_name_no_file(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for save in savers().values():
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            save(path)
    assert os.listdir(tmp_path) == ["folder"]
    assert not os.listdir(tmp_path / "folder")


def test_a_folder_is_not_replaced(tmp_path):
    for save in savers().values():
        with pytest.raises((IsADirectoryError, PermissionError)) as caught:
            save(tmp_path)
        assert caught.value.filename == str(tmp_path)


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    """A rename would replace it. Opening it to write, as most programs do, would not."""
    path = tmp_path / "w"
    path.write_bytes(b"older")
    monkeypatch.setattr(
        atomic_write.os, "access", lambda given, mode: not (str(given) == str(path) and mode == os.W_OK)
    )
    for save in savers().values():
        with pytest.raises(PermissionError) as caught:
            save(path)
        assert caught.value.filename == str(path)
    assert path.read_bytes() == b"older"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs POSIX permissions, which root bypasses")
def test_permissions_are_respected(tmp_path):
    path = tmp_path / "folder" / "w"
    path.parent.mkdir()
    path.write_bytes(b"older")
    path.chmod(0o444)
    for save in savers().values():
        with pytest.raises(PermissionError, match=str(path)):
            save(path)
    path.chmod(0o644)
    path.parent.chmod(0o555)
    for save in savers().values():
        with pytest.raises(PermissionError, match=str(path)):
            save(path)
    path.parent.chmod(0o755)
    assert path.read_bytes() == b"older"


@ON_POSIX
def test_links_are_followed(tmp_path):
    """A dangling link's target is created, a circular link raises, and a hard link is split."""
    (tmp_path / "dangling").symlink_to("target")
    replace(tmp_path / "dangling", b"new")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert (tmp_path / "dangling").is_symlink()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="circle"):
        replace(tmp_path / "circle", b"new")
    os.link(tmp_path / "target", tmp_path / "other name")
    replace(tmp_path / "target", b"newer")
    assert (tmp_path / "other name").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["circle", "dangling", "other name", "target"]


# Temporary files.


def left(folder):
    return [name for name in os.listdir(folder) if TEMPORARY.fullmatch(name)]


def save_and_hang(path, in_the_midst):
    """Save in a child process. Before the rename, set the event and wait to be killed."""

    def hang(_):
        in_the_midst.set()
        time.sleep(60)

    os.fsync = hang
    weights().save(path)


def started(path):
    """Return a process in the middle of a save."""
    context = multiprocessing.get_context("spawn")
    in_the_midst = context.Event()
    child = context.Process(target=save_and_hang, args=(path, in_the_midst))
    child.start()
    assert in_the_midst.wait(60)
    return child


@ON_POSIX
@pytest.mark.parametrize("name", ["w", "n" * 255, "odd [name].*"])
def test_files_of_killed_saves_are_removed(name, tmp_path):
    """Only the next save to the same path removes the file. Until then the old file is intact."""
    path = tmp_path / name
    weights(seed=1).save(path)
    before = path.read_bytes()
    child = started(path)
    assert len(left(tmp_path)) == 1
    weights().save(tmp_path / "another")
    weights(seed=1).save(path)
    assert len(left(tmp_path)) == 1, "the file of a running save should stay"
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert len(left(tmp_path)) == 1
    assert path.read_bytes() == before
    weights().save(tmp_path / "another")
    assert len(left(tmp_path)) == 1, "the file of another target should stay"
    weights().save(path)
    assert not left(tmp_path)
    assert LSTMWeights.load(path).input_size == 2


@ON_POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_saves_tidy_up(number, tmp_path):
    path = tmp_path / "w"
    path.write_bytes(b"older")
    child = started(path)
    os.kill(child.pid, number)
    child.join()
    assert path.read_bytes() == b"older"
    if number == signal.SIGINT:
        assert not left(tmp_path), "an interrupted save should remove its file"
    weights().save(path)
    assert not left(tmp_path)


def descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # from files interrupted before `with` holds them
@pytest.mark.parametrize(
    "removed", [pytest.param(False, id=""), pytest.param(True, id="its file is removed", marks=ON_POSIX)]
)
def test_interrupts_at_any_moment_of_a_save(removed, tmp_path, monkeypatch):
    """An interrupted save leaves the old file or the new one, and no open descriptor unless it was inside os.open.

    It may leave a temporary file, which the next save removes. The interrupt itself must propagate. Closing a
    descriptor twice would raise another error, or close another thread's file.
    """
    path, real = tmp_path / "w", atomic_write._keep
    moment = temporary = 0
    ended = to_remove = False
    contents, before = set(), descriptors()

    def keep(descriptor):
        nonlocal to_remove
        if to_remove:  # as another save does
            to_remove = False
            os.unlink(tmp_path / left(tmp_path)[0])
        return real(descriptor)

    monkeypatch.setattr(atomic_write, "_keep", keep)
    while not ended:
        moment += 1
        path.write_bytes(b"older")
        to_remove = removed
        came = moments.interrupted(lambda: replace(path, b"newer"), moment, also=(os.fdopen, contextlib.contextmanager))
        ended = came is None
        contents.add(path.read_bytes())
        temporary += len(left(tmp_path))
        replace(path, b"next")
        assert os.listdir(tmp_path) == ["w"], moment
    assert moment > 20
    assert contents == {b"older", b"newer"}
    assert temporary <= 2, "only an interrupt during the removal may leave a file"
    assert descriptors() <= before + 2, "only an interrupt inside os.open may leak a descriptor"


@ON_POSIX
def test_descriptors_are_not_leaked(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "x")

    before = descriptors() or pytest.skip("needs /proc")
    for call in ("fstat", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(atomic_write.os, call, fail)
            with pytest.raises(OSError, match="x"):
                replace(tmp_path / "w", b"content")
    replace(tmp_path / "w", b"content")
    assert descriptors() == before


@ON_POSIX
def test_save_retries_if_its_file_is_removed(tmp_path, monkeypatch):
    """Before the temporary file is locked, another save may remove it as abandoned."""
    real, taken = atomic_write.fcntl.flock, []

    def lock(descriptor, how):
        if not taken:
            taken.extend(left(tmp_path))
            os.unlink(tmp_path / taken[0])
        return real(descriptor, how)

    monkeypatch.setattr(atomic_write.fcntl, "flock", lock)
    replace(tmp_path / "w", b"content")
    assert taken
    assert (tmp_path / "w").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["w"]


@pytest.mark.parametrize("locks", ["none", "failing"])
def test_old_files_are_removed_without_locks(locks, tmp_path, monkeypatch):
    """Windows and some file systems have no locks."""
    old, new = (tmp_path / f".w.{k:016x}.fusedlstm-tmp" for k in (1, 2))
    for path in (old, new):
        path.write_bytes(b"part")
    os.utime(old, (time.time() - 7200,) * 2)
    if locks == "none":
        monkeypatch.setattr(atomic_write, "fcntl", None)
    elif atomic_write.fcntl is None:
        pytest.skip("needs file locks")
    else:

        def fail(*_):
            raise OSError(errno.ENOLCK, "no locks")

        monkeypatch.setattr(atomic_write.fcntl, "flock", fail)
    replace(tmp_path / "w", b"content")
    assert (tmp_path / "w").read_bytes() == b"content"
    assert left(tmp_path) == [new.name]


@ON_POSIX
def test_similarly_named_files_stay(tmp_path):
    """Remove only files that a save to this target can have made, and follow no links."""
    target = tmp_path / "elsewhere"
    target.write_bytes(b"precious")
    names = [
        *(".w.fusedlstm-tmp", ".w.0123456789abcdef.fusedlstm-tmp.bak", "w.0123456789abcdef.fusedlstm-tmp"),
        *(
            ".w.x.0123456789abcdef.fusedlstm-tmp",
            ".w.0123456789ABCDEF.fusedlstm-tmp",
            ".ww.0123456789abcdef.fusedlstm-tmp",
        ),
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"others'")
    link = tmp_path / ".w.0123456789abcdef.fusedlstm-tmp"
    link.symlink_to("elsewhere")
    replace(tmp_path / "w", b"content")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, link.name, "elsewhere", "w"])
    assert target.read_bytes() == b"precious"


CHILD = """
import sys
from fusedlstm import LSTMWeights
path, seed = sys.argv[1], int(sys.argv[2])
weights = LSTMWeights.random(64, 64, seed=seed)
for _ in range(60):
    weights.save(path)
    LSTMWeights.load(path)
"""


def test_two_processes_save_at_once(tmp_path):
    """Processes always see a whole file, and don't remove each other's temporary files."""
    path = tmp_path / "w"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(seed)], env=environment, stderr=subprocess.PIPE)
        for seed in (0, 1, 2)
    ]
    for child in children:
        _, said = child.communicate(timeout=120)
        assert child.returncode == 0, said.decode()
    saved = LSTMWeights.load(path).weight_ih
    assert any(np.array_equal(saved, LSTMWeights.random(64, 64, seed=seed).weight_ih) for seed in (0, 1, 2))
    assert os.listdir(tmp_path) == ["w"]


# Where a command will write.


def test_commands_check_their_targets(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    check_target("OUT", str(tmp_path / "new"), {"SOURCE": str(source), "--state": None, "--other": "absent"})
    with pytest.raises(ValueError, match="OUT: wanted a file other than --more"):
        check_target(
            "OUT", str(tmp_path / "new"), {"--more": str(tmp_path / "." / "new")}
        )  # the same path, spelled differently
    for wrong in (str(tmp_path), str(tmp_path / "absent" / "w"), "", str(tmp_path / "new") + os.sep):
        with pytest.raises(ValueError, match="OUT: wanted a file in a folder that exists; got "):
            check_target("OUT", wrong, {})
    with pytest.raises(ValueError, match="OUT: wanted a file other than SOURCE, which would be lost; got "):
        check_target("OUT", str(tmp_path / "." / "source"), {"SOURCE": str(source)})
