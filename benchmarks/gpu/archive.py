"""results.tar.gz: everything that a run keeps, in one file. It is replaced after each part, whole or not at all."""

import io
import tarfile

from fusedlstm.atomic_write import replace

NAME = "results.tar.gz"


def write(results, kept):
    """Archive the files beside the archive and those in the folder `kept`."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=6) as archive:
        for folder in (results, kept):
            for path in sorted(folder.iterdir()):
                if path.is_file() and path.name != NAME and not path.name.startswith("."):
                    archive.add(path, arcname=path.name)
    replace(results / NAME, content.getvalue())
