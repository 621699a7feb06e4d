"""From a model reference to a local folder of safetensors.

A reference is one of: `builtin:minilm`, a local folder, a registered name (`ft:…` or an alias), or a
Hugging Face id. Resolved in that order, so that a folder shadows a hub id of the same spelling.
"""

from __future__ import annotations

from pathlib import Path

from cluster.builtin import BUILTIN_PREFIX, pull_builtin
from cluster.errors import HubUnreachable, InvalidInput, NotFound
from cluster.hub import hub_is_reachable
from cluster.registry import Registry
from cluster.storage import expanded, local_folder

# What a model folder needs. Pickled weights (*.bin, *.pt) are never fetched, so never loaded.
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "1_Pooling/*"]


def resolve_model(reference: str, registry: Registry | None = None) -> Path:
    """The local folder of a model.

    Raises NotFound for a name nobody knows, HubUnreachable when the hub does not answer, and
    InvalidInput for a folder without safetensors, or below the home of nobody.
    """
    if reference.startswith(BUILTIN_PREFIX):
        return pull_builtin(reference)
    folder = expanded(reference)
    if folder.is_dir():
        return _require_safetensors(folder, reference)
    if reference.startswith("ft:"):
        card = (registry or Registry()).get(reference)
        return local_folder(card.weights_uri)
    if reference.startswith(("/", ".", "~")):
        raise NotFound(
            f"no folder {folder}; give a folder, a hub id, a registered name or builtin:NAME", "model"
        )
    named = pinned_reference(reference, registry)
    if named != reference:
        return resolve_model(named, registry)
    return _require_safetensors(_from_hub(reference), reference)


def pinned_reference(reference: str, registry: Registry | None = None) -> str:
    """An alias as the id that it names now, any other reference as it is: an alias may name another model later."""
    if reference.startswith((BUILTIN_PREFIX, "ft:", "/", ".", "~")) or Path(reference).is_dir():
        return reference
    return (registry or Registry()).aliases().get(reference, reference)


def _from_hub(reference: str) -> Path:
    # Imported late: it costs 0.3 s and most references never need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        folder = snapshot_download(
            reference, allow_patterns=HUB_FILES, local_files_only=not hub_is_reachable()
        )
    except (RepositoryNotFoundError, HFValidationError) as exc:
        raise NotFound(
            f"no model {reference!r}: it is neither a folder, a registered name, a builtin: model nor a "
            "repository on the hub (private ones need HF_TOKEN)",
            "model",
            "model_not_found",
        ) from exc
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as exc:
        raise HubUnreachable(
            f"the model hub cannot be reached and {reference!r} is not in its cache; "
            "use a local folder, or builtin:minilm / builtin:smollm2, which need no hub",
            "model",
        ) from exc
    return Path(folder)


def _require_safetensors(folder: Path, reference: str) -> Path:
    if not any(folder.glob("*.safetensors")):
        raise InvalidInput(
            f"{reference} holds no *.safetensors; convert the weights first (pickled ones are never loaded)",
            "model",
        )
    return folder
