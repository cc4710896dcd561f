"""What can go wrong, in words that name the layer or the setting and say what to do."""


class CompressionError(Exception):
    """A model, recipe or calibration that cannot be compressed as asked."""


class RecipeError(CompressionError):
    """A recipe that cannot be understood, or that does not fit the model."""
