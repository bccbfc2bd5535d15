"""Signatures of bundles, by OpenSSH: keys that people have already, checked by a program that every board has."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

from edgeprune.deploy.scripts import script
from edgeprune.errors import EngineError, UsageError
from edgeprune.files import replace_with


def sign(bundle: Path, key: Path) -> Path:
    """Sign a bundle's folder with an ssh key (or its public half, if an agent holds it): writes `SHA256SUMS.sig` in it and
    `<folder>.signed.tar.gz` beside it; gives the archive.

    Raises:
        UsageError: no bundle, or no key. EngineError: the bundle is damaged, or ssh-keygen says no.
    """
    bundle = bundle.resolve()  # its parent's name is the archive's folder
    check(bundle)
    if not key.is_file():
        raise UsageError(f"sign: {key}: no such key; make one with ssh-keygen -t ed25519")
    told = bundle / "SHA256SUMS.sig"
    told.unlink(missing_ok=True)
    command = [
        "ssh-keygen",
        "-Y",
        "sign",
        "-n",
        script("manifest").NAMESPACE,
        "-f",
        str(key),
        str(bundle / "SHA256SUMS"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise EngineError("sign: ssh-keygen is not installed; it comes with OpenSSH") from error
    if done.returncode or not told.exists():
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise EngineError(f"sign: ssh-keygen: {lines[-1]}")
    archive = bundle.parent / f"{bundle.name}.signed.tar.gz"

    def pack(beside: Path) -> None:
        with tarfile.open(beside, "w:gz") as tar:
            tar.add(
                bundle,
                arcname=bundle.parent.name,
                filter=lambda i: None if Path(i.name).parts[1:2] == ("engines",) else i,
            )

    replace_with(archive, pack)
    return archive


def check(bundle: Path, signers: Path | None = None, who: str | None = None) -> None:
    """Refuse a bundle that is not whole, or not signed by one of `signers` where they are given.

    Raises:
        UsageError: no bundle. EngineError: it is damaged, or the signature is not good.
    """
    if not (bundle / "SHA256SUMS").is_file():
        raise UsageError(f"{bundle}: no bundle's folder; it has no SHA256SUMS (unpack the .tar.gz first)")
    manifest = script("manifest")
    try:
        manifest.verify(str(bundle), str(signers) if signers else None, who)
    except manifest.Fault as error:
        raise EngineError(str(error)) from error
