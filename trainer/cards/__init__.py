"""Model cards in Hugging Face's format, of versions and of reward models. Pure but for the pictures' own library.

A card is rendered on demand from what the registry holds, so nothing rendered is ever stored, digested or served; equal
facts give equal bytes.
"""
