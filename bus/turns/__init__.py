"""One turn: what is stored of it, what cannot be read of it, whether anybody waits for it."""
