"""From a trained model back to shapes."""
