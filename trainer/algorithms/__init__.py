"""The maths, as pure functions: tensors in, losses and named metrics out. No models, no files, no randomness."""
