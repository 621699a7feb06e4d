"""Removes what has had its time: expired files, weights of deleted models, bytes whose process died."""

from __future__ import annotations

import logging
import time

from cluster.batches import Batches
from cluster.blobs import remove_staged
from cluster.errors import Unavailable
from cluster.files import Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.registry import Registry
from cluster.storage import delete_folder

log = logging.getLogger(__name__)

# A request that found the model before it was deleted may still be loading it.
WEIGHTS_GRACE_S = 60.0
# An upload that has not grown for so long has nobody who sends it, nor makes a file of it.
UPLOAD_GRACE_S = 24 * 3600.0


class Retention:
    """What the conductor has removed, now and then."""

    def __init__(
        self,
        files: Files,
        jobs: FineTuningJobs,
        batches: Batches,
        registry: Registry,
    ) -> None:
        self._files = files
        self._jobs = jobs
        self._batches = batches
        self._models = registry

    def apply(self) -> None:
        expired = self._files.expired()  # before what is in use: nothing new is made from an expired file
        in_use = self._jobs.files_in_use() | self._batches.files_in_use()
        self._files.remove([file for file in expired if file.id not in in_use])
        for uri in self._models.retired_weights(WEIGHTS_GRACE_S):
            # The folder first: what is noted is tried again.
            try:
                delete_folder(uri)
            except Unavailable as exc:
                log.warning("the weights stay for now: %s", exc)
                continue
            self._models.forget_weights(uri)
            log.info("removed the weights in %s", uri)
        remove_staged(before=time.time() - UPLOAD_GRACE_S)

    def sweep(self) -> None:
        """Remove bytes that no file is made of. Lists all of storage's files, so it is done seldom."""
        for uri in self._files.remove_orphans(before=time.time() - UPLOAD_GRACE_S):
            log.info("removed %s, which no file is made of", uri)
