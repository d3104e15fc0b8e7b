"""WHERE the weights are: finding, reading and lending them, and how hidden states become logits."""
