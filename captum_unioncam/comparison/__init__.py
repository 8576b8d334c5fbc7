"""Several methods and classes of the same inputs, side by side on shared measurements."""
