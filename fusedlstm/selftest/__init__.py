"""The checks of the command `fusedlstm selftest`: each runs a backend beside the readable formula."""
