"""The learning stages: SFT, reward model, the policy by PPO, DPO, KTO or imitation. Token data in, adapters out."""
