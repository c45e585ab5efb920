"""Care of adapters beside their updates: make them smaller, merge them, take them elsewhere, distil them.

Nothing here changes a version: what comes out is a new directory, or the candidate of an update that still has to pass
the gate.
"""
