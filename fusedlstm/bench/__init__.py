"""Time the steps of a user's own weights: `fusedlstm.benchmark`, and the command `fusedlstm bench`."""
