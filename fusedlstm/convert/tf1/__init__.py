"""TensorFlow 1's cells, and layers of them <-> LSTMWeights and StackedWeights."""
