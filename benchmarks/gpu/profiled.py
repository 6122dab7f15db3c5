"""Write which kernels PyTorch runs for LSTM and LSTMCell: python -m benchmarks.gpu.profiled TABLE.txt."""

import sys
from pathlib import Path

from benchmarks.gpu.parts import SKIPPED

SIZES = ((1, 128), (32, 512), (1024, 128))  # B, and N = I
STEPS = 16
DTYPES = ("float32", "bfloat16")
_ROWS = 12


def tables(torch):
    """Yield a title and a table of kernels for each module, size and dtype."""
    for dtype in DTYPES:
        for B, N in SIZES:
            x = torch.randn(STEPS, B, N, device="cuda", dtype=getattr(torch, dtype))
            lstm = torch.nn.LSTM(N, N).to(x)
            cell = torch.nn.LSTMCell(N, N).to(x)
            size = f"{dtype}, B = {B}, N = I = {N}"
            yield f"LSTM, {size}, T = {STEPS}", table(torch, lstm, x)
            yield f"LSTMCell, {size}", table(torch, cell, x[0])


def table(torch, module, x):
    """Return what ran on the GPU in a call, with its times."""
    from torch.profiler import ProfilerActivity, profile

    with torch.inference_mode():
        for _ in range(3):
            module(x)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            module(x)
            torch.cuda.synchronize()
    return profiler.key_averages().table(sort_by="self_device_time_total", row_limit=_ROWS, max_name_column_width=120)


def main(path):
    """Write the tables as they come, and return the exit status."""
    try:
        import torch
    except ImportError as error:
        print(f"PyTorch can't be imported: {error}")
        return SKIPPED
    if not torch.cuda.is_available():
        print("this PyTorch has no CUDA")
        return SKIPPED
    with Path(path).open("w") as file:
        for title, text in tables(torch):
            for out in (file, sys.stdout):
                print(f"\n{title}\n{text}", file=out, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
