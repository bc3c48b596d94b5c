"""The learning stages: supervised fine-tuning, reward model, the policy by PPO, DPO, KTO or SFT. Token data in, adapters out."""
