"""Roles: which examples train an update, which judge it, and what state they are in after it."""
