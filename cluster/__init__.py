"""Where things run: settings, errors, storage, the model registry, the Ray head and its doctor.

Imports none of the other packages; every other package may import this one.
"""
