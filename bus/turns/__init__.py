"""One turn: what is stored of it, whether it was cancelled, whether anybody waits for it."""
