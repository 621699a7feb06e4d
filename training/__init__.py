"""Data -> tuned model: fine-tuning on Ray Train with DeepSpeed, ending in a registered ModelCard.

Imports `cluster` and nothing else of ours.
"""
