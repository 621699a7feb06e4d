"""Documents to hits: reading, chunking, embedding, storing and searching.

Start with `documents.py` (what is read), `chunks.py` (what is indexed), `store.py` (where it lies) and
`service.py` (how it is searched). `owner.py` says which process holds the collections.
"""
