"""What several agents use: comparing answers, asking the model, cutting text. No agent."""
