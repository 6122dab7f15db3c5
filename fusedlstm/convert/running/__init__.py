"""What frameworks themselves compute of the arrays of a file, to compare with."""
