"""Curation: which texts are not worth learning, and which questions are alike."""
