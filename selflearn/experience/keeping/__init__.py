"""Keeping: how long rows stay, and how they are forgotten for good."""
