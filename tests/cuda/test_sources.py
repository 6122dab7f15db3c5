"""The digest of the kernels, and the folder of compiled kernels."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusedlstm.backends.cuda.runtime import cache, sources


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Return a folder of two kernel files that replaces the real one."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "pointwise.cu").write_text("a")
    (folder / "header.cuh").write_text("b")
    monkeypatch.setattr(sources, "_PLACES", (tmp_path / "absent", folder))
    sources.folder.cache_clear()
    sources.digest.cache_clear()
    yield folder
    sources.folder.cache_clear()
    sources.digest.cache_clear()


def digest():
    sources.digest.cache_clear()
    return sources.digest()


def test_digest_sees_every_change(kernels):
    """CuPy's own cache doesn't notice a changed header. The digest does."""
    assert sources.folder() == kernels
    seen = {digest()}
    assert digest() in seen

    def changes():
        (kernels / "header.cuh").write_text("b ")
        yield
        (kernels / "header.cuh").rename(kernels / "other.cuh")
        yield
        (kernels / "new.cu").write_text("")
        yield
        (kernels / "pointwise.cu").write_text("ab")
        yield

    for _ in changes():
        assert digest() not in seen
        seen.add(digest())


def test_digest_ignores_other_files(kernels):
    before = digest()
    (kernels / "README.md").write_text("words")
    (kernels / "pointwise.cu.swp").write_text("an editor's")
    assert digest() == before


def test_missing_kernels_raise(kernels):
    (kernels / "pointwise.cu").unlink()
    sources.folder.cache_clear()
    with pytest.raises(FileNotFoundError, match="installed without its kernels"):
        sources.folder()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    cache._said.clear()
    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", str(tmp_path / "a" / "cache"))
    return tmp_path / "a" / "cache"


def test_code_is_kept_and_read_again(folder):
    assert cache.read("x") is None
    cache.write("x", b"code")
    assert cache.read("x") == b"code"
    assert (folder / "x").read_bytes() == b"code"


def test_default_cache_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("FUSEDLSTM_CACHE_DIR", raising=False)
    if os.name == "posix":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache.folder() == tmp_path / "fusedlstm"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache.folder() == tmp_path / ".cache" / "fusedlstm"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_the_folder_is_private_to_the_user(folder):
    cache.write("x", b"code")
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_writable_by_others_is_refused(mode, folder, caplog):
    """Otherwise other users' code could run on the GPU as this user."""
    cache.write("x", b"code")
    folder.chmod(mode)
    with caplog.at_level(logging.WARNING, logger="fusedlstm"):
        assert cache.read("x") is None
        cache.write("y", b"code")
    assert caplog.text.count("can be written by other users") == 1, "the warning should come once"
    folder.chmod(0o700)
    assert cache.read("y") is None


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_folder_of_another_user_is_refused(folder, monkeypatch):
    cache.write("x", b"code")
    monkeypatch.setattr(cache.os, "getuid", lambda: folder.stat().st_uid + 1)
    assert cache.read("x") is None
    assert "belongs to another user" in cache.make_private(folder)


def test_a_user_without_a_home(monkeypatch, tmp_path):
    for variable in ("FUSEDLSTM_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)

    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "expanduser", no_home)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache.folder().parent == tmp_path
    cache.write("x", b"code")
    assert cache.read("x") == b"code"


def test_the_variable_may_name_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("FUSEDLSTM_CACHE_DIR", os.path.join("~", "kernels"))
    assert cache.folder() == tmp_path / "kernels"


def test_a_failed_mkdir_is_tolerated(folder):
    folder.parent.parent.joinpath("a").write_text("a file where a folder should be")
    cache.write("x", b"code")
    assert cache.read("x") is None


def test_a_failing_write_is_tolerated(folder, monkeypatch):
    """The code then lies in a folder of this process, as CuPy loads files."""
    real = cache.replace

    def full(path, content):
        if path.is_relative_to(folder):
            raise OSError("no space left on device")
        real(path, content)

    monkeypatch.setattr(cache, "replace", full)
    path = cache.write("x", b"code")
    assert path.read_bytes() == b"code"
    assert not list(folder.iterdir())
    monkeypatch.undo()
    assert cache.read("x") is None


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_code_of_a_process_is_removed_at_its_end(tmp_path):
    """A forked child ends first, and removes nothing."""
    program = f"""
import os, sys
from pathlib import Path
from fusedlstm.backends.cuda.runtime import cache
Path({str(tmp_path / "file")!r}).write_text("where a folder should be")
path = cache.write("x", b"code")
child = os.fork()
if not child:
    sys.exit()
os.waitpid(child, 0)
assert path.read_bytes() == b"code"
print(path.parent)
"""
    environment = os.environ | {"FUSEDLSTM_CACHE_DIR": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent == tmp_path
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
