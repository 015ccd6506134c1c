"""Measurements: `make bench` runs each and prints JSON."""
