"""`attune label`: a model judges pairs of answers by the policy's constitution, marked as a model's words."""
