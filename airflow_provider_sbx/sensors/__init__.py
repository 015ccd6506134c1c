"""Waiting for what another task started."""
