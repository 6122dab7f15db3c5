"""Keras' cells and layers, by Keras 3 and tf.keras <-> LSTMWeights and StackedWeights."""
