"""The negotiator (CAMP, arXiv 2604.00085): a panel votes on every candidate, and votes again after dissent."""
