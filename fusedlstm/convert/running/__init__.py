"""Run LSTMs from files in their own frameworks, to compare our results with."""
