"""The study: what offline PPO, DPO, KTO and SFT make of the same words, against gold that none of them can see.

Made-up people talk to the real server app in process, on a fast engine of its own; their words go through the real log,
ledger, join and snapshot; the trainer's own functions learn. One log, one snapshot and one reward model are made for
each seed, and every arm starts from them. docs/study.md says what came of it.
"""
