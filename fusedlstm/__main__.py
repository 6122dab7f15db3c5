"""Run the command fusedlstm as python -m fusedlstm."""

import sys

from fusedlstm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
