"""Arrays of NumPy, CuPy and other libraries: their dtypes, where they are, and views of them."""
