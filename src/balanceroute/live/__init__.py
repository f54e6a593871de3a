"""The live router: an OpenAI-compatible endpoint in front of a group of ranks."""
