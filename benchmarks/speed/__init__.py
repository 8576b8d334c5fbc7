"""How fast: methods, other libraries and the network itself, timed in turn; and the report.

``python -m benchmarks.speed --help`` lists the options, ``--out DIR`` is where ``report.md`` and
``speed.csv`` are written. Other libraries come with the extra ``peers``; what is not installed is
left out, and the report names it.
"""
