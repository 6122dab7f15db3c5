"""Everything that needs an NVIDIA GPU, in one run that loses nothing however it ends: `bash benchmarks/gpu.sh`."""
