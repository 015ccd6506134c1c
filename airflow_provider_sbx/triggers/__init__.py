"""Waiting in the triggerer, with no worker slot held."""
