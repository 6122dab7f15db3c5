"""The GPU's clocks, power and temperature now, by NVML or nvidia-smi."""

from __future__ import annotations

import subprocess

_FIELDS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "clocks_event_reasons.active")


def sm_mhz() -> int | None:
    """Return the clock of the multiprocessors in MHz, or None if NVML can't tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
        mhz: int = pynvml.nvmlDeviceGetClockInfo(pynvml.nvmlDeviceGetHandleByIndex(0), pynvml.NVML_CLOCK_SM)
    except Exception:  # it isn't installed, or finds no driver
        return None
    return mhz


def clocks() -> dict[str, str] | None:
    """Return what nvidia-smi says, or None if it says nothing."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader"]
    try:
        answered = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(_FIELDS, answered.stdout.strip().split(", "), strict=False))
