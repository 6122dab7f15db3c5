"""The demo: a classifier of handwritten digits, with its weights and held-out images."""
