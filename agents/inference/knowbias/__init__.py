"""KnowBias (arXiv 2601.21864) while serving: gates, the neurons' file, the factor on them."""
