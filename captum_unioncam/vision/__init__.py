"""Pictures and the networks that look at them, for the command line and the benchmark."""
