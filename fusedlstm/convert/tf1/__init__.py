"""Convert TensorFlow 1's cells, and layers of them, to LSTMWeights and StackedWeights, and back."""
