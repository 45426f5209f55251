"""Making the router's weights: the corpus, the training, the evaluation. No process that serves turns imports it."""
