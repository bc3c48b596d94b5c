"""One base model in memory for every role: policy, reference, reward model and critic."""
