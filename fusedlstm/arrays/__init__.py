"""Arrays of NumPy, CuPy and other libraries: their dtypes, their devices, and views of them."""
