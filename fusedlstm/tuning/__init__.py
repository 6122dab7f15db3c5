"""Measure the kernels of layers on a GPU, for the command `fusedlstm tune`."""
