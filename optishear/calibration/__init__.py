"""WHAT each layer saw: sums over calibration tokens, collected in one dense pass and cached."""
