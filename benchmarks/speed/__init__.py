"""How fast: methods, other libraries and the network itself, timed in turn; and the report."""
