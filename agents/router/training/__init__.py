"""How the router's weights are made: the corpus, the training, the evaluation. No serving process imports it."""
