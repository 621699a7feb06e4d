"""What reads vector store files, as a process of its own: `python reader_process.py FOLDER LEASE_S [stepwise]`.

The embedded engine lies in FOLDER. Stepwise, it says `written` after each write of chunks and waits for a line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cluster.database import open_database
from cluster.files import Files
from cluster.vector_store_queue import VectorStoreQueue
from retrieval.client import CollectionsClient
from retrieval.edge_store import EdgeStore
from retrieval.owner import InProcess
from retrieval.service import Collections
from retrieval.vectorizer import HashEmbedder
from serving.vector_store_work import VectorStoreWork


class Stepwise(InProcess):
    def call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        result = super().call(verb, *args, **kwargs)
        if verb == "upsert":
            sys.stdout.write("written\n")
            sys.stdout.flush()
            sys.stdin.readline()
        return result


def main(folder: str, lease_s: str, *stepwise: str) -> None:
    engine = open_database()
    transport = (Stepwise if stepwise else InProcess)(Collections(EdgeStore(Path(folder))))
    queue = VectorStoreQueue(engine)
    work = VectorStoreWork(queue, Files(engine), CollectionsClient(transport), HashEmbedder(), float(lease_s))
    while work.run_one():
        pass
    work.optimize()
    transport.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
