"""Convert cells and layers of Keras 3 and tf.keras to LSTMWeights and StackedWeights, and back."""
