"""python -m fusedlstm is the command fusedlstm."""

import sys

from fusedlstm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
