"""For developers: how fast the package is, against other libraries and against itself."""
