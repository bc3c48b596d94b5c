"""The learning stages: supervised fine-tuning, reward model, offline PPO. Token data in, adapters out."""
