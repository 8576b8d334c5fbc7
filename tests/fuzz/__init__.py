"""Random networks x every method of the registry, against the oracles: `python -m tests.fuzz`.

Needs what the package itself needs, and nothing of pytest.
"""
