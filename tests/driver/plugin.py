"""Run pytest on the fake driver: `python -m pytest -p driver.plugin`, with tests/ on the path."""

from . import install

install()
