"""Transfer: examples come in as files of rows, and go out as such."""
