"""All systems' layouts by name, and a way to plant wrong ones."""

from fusedlstm.convert.systems import SYSTEMS

LAYOUTS = {name: layout for system in SYSTEMS for name, layout in system.layouts.items()}


def plant(monkeypatch, name, wrong):
    """Replace a layout with a wrong one, where the system's code looks it up."""
    (layouts,) = (system.layouts for system in SYSTEMS if name in system.layouts)
    monkeypatch.setitem(layouts, name, wrong)
