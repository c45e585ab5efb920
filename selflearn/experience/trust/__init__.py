"""Trust: what contradicts what, what is held back, and what operators decide about it."""
