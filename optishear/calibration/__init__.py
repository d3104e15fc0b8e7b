"""Statistics and gradients of a model's layers on calibration text: WHAT each layer saw."""
