"""Placeholder until `lock` stands."""
