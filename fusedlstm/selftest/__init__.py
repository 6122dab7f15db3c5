"""The checks of the command `fusedlstm selftest`: each compares an object of a backend with the formula."""
