"""KnowBias (arXiv 2601.21864) while serving: a model's gates, the file of neurons, and the factor on them."""
