"""What the CUDA backend needs of CUDA: compilers, streams, graphs, memory and matrix products."""
