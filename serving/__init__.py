"""Question to answer: Serve deployments behind one OpenAI-compatible router.

Imports `cluster` and `retrieval`, never `training`: what training makes arrives as ModelCards.
"""
