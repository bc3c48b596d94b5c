"""The learning stages: SFT of a base, reward model, the policy by PPO, DPO, KTO or SFT. Token data in, adapters out."""
