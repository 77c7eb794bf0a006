"""Run a Python function somewhere else, inside an image of exactly the environment it was written in."""

from __future__ import annotations
