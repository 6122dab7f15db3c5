"""Convert the weights and states of Flax's LSTM cells, of linen and of nnx, and back."""
