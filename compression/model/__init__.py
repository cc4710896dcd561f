"""Models in memory: layers, their inputs, changes to them, training, and loading."""
