"""Frozen dataclasses and pure functions: what the house talks about. No I/O, standard library only."""
