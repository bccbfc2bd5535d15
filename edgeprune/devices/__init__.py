"""Where a backend runs: this machine (and, by a bundle, a board)."""
