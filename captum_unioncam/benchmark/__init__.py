"""A data set in, one row per image and method out, and the tables made of them."""
