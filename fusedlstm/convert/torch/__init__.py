"""PyTorch's LSTMCell and LSTM <-> LSTMWeights and StackedWeights."""
