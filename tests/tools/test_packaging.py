"""However the package is installed, it includes its kernels and the demo's files, and nothing else."""

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import fusedlstm

from support.places import ROOT

KERNELS = sorted(path.name for path in (ROOT / "kernels").iterdir())

# Run away from any checkout. The kernels must be found, and the demo must agree.
CHECK = """
import os, sys, site
before = sys.path[:]
site.addsitedir(sys.argv[1])
sys.path[:] = [path for path in sys.path if path not in before] + before  # ahead of any other installation
import fusedlstm
from fusedlstm.backends.cuda.runtime import sources
from fusedlstm.cli.demo import digits
assert digits.run("numpy").passed
print(os.path.dirname(fusedlstm.__file__), sources.folder(), *sorted(os.listdir(sources.folder())), sep="\\n")
"""

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="these tests need a checkout")


def build(target, source, folder):
    """Build with the backend that pyproject.toml names, in its own process."""
    code = f"import hatchling.build as b, sys; print(b.build_{target}(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder / result.stdout.split()[-1]


def installed(site_folder, cwd):
    """Return the folders of package and kernels, and the kernels' files, for an installation in this folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", CHECK, str(site_folder)],
        cwd=cwd,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    package, kernels, *files = result.stdout.splitlines()
    return Path(package), Path(kernels), files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory):
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def test_wheel_has_every_file_and_no_other(wheel):
    """An empty kernels/ would still build, so compare the wheel's files with the folders."""
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    package = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "fusedlstm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sorted(names) == sorted([*package, *(f"fusedlstm/kernels/{name}" for name in KERNELS)])
    assert {"pointwise.cu", "primitives.cuh", "activations.cuh"} <= set(KERNELS)
    assert "fusedlstm/py.typed" in names
    assert wheel.stat().st_size < 950_000


def test_wheel_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(archive.read(path))
    assert metadata["Version"] == fusedlstm.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(line.split(">=")[0] for line in required) == ["numpy", "safetensors"]
    names = [name.split(".dist-info/")[1] for name in archive.namelist() if ".dist-info/" in name]
    assert {"licenses/LICENSE", "licenses/NOTICE", "entry_points.txt"} <= set(names)


def test_installed_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    package, kernels, files = installed(tmp_path / "site", tmp_path)
    assert package == tmp_path / "site" / "fusedlstm"
    assert kernels == package / "kernels"
    assert files == KERNELS


def test_wheel_of_the_source_archive(source_archive, tmp_path):
    with tarfile.open(source_archive) as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 has it
        archive.extractall(tmp_path, **safely)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (folder / "tests" / "tools" / "test_packaging.py").is_file(), "the source archive lacks tests"
    wheel = build("wheel", folder, tmp_path)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert installed(tmp_path / "site", tmp_path)[2] == KERNELS


def test_source_archive_has_no_other_folders(source_archive):
    with tarfile.open(source_archive) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    folders = {"fusedlstm", "kernels", "tests", "benchmarks", "examples", "docs"}
    files = {"PKG-INFO", "pyproject.toml", "mkdocs.yml", "LICENSE", "NOTICE", ".clang-format", ".gitignore"}
    assert tops == folders | files | {path.name for path in ROOT.glob("*.md")}


def test_editable_install(tmp_path):
    """It uses the checkout's kernels, so an edit takes effect."""
    wheel = build("editable", ROOT, tmp_path)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    package, kernels, files = installed(tmp_path / "site", tmp_path)
    assert package == ROOT / "fusedlstm"
    assert kernels == ROOT / "kernels"
    assert files == KERNELS


def test_plain_checkout():
    from fusedlstm.backends.cuda.runtime import sources

    assert sources.folder() == ROOT / "kernels"
    assert len(sources.digest()) == 64


def test_no_python_in_kernels():
    """A kernels/__init__.py would shadow another project's package."""
    assert {Path(name).suffix for name in KERNELS} == {".cu", ".cuh"}
