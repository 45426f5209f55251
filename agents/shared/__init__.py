"""What several agents use: comparing answers, asking the model, embedding and cutting text. No agent."""
