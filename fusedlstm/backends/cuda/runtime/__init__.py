"""What the CUDA backend needs from CUDA: compilers, streams, graphs, memory and matrix products."""
