"""Training on the worker for the dreams: gradient steps, protected directions, weights in and out."""
