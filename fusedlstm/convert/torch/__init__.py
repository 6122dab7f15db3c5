"""Convert PyTorch's LSTMCell and LSTM to LSTMWeights and StackedWeights, and back."""
