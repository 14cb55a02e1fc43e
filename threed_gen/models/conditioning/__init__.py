"""What the model is told about a shape: pictures or captions, as tokens for cross-attention."""
