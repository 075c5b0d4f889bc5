"""What DivBase costs, measured against what it replaces: `python -m benchmarks`, or `make bench`."""
