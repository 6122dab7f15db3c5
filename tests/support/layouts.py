"""All systems' layouts by name, and wrong ones in their place."""

from fusedlstm.convert.systems import SYSTEMS

LAYOUTS = {name: layout for system in SYSTEMS for name, layout in system.layouts.items()}


def plant(monkeypatch, name, wrong):
    """Put a wrong layout where the system's code looks it up."""
    (layouts,) = (system.layouts for system in SYSTEMS if name in system.layouts)
    monkeypatch.setitem(layouts, name, wrong)
