"""Is the bundle whole? Every file against SHA256SUMS, no other files beside them, the signature if asked.

SHA256SUMS covers every file, MANIFEST.json (versions of what made it) among them; a signature signs SHA256SUMS, by OpenSSH:

    ssh-keygen -Y sign -n edgeprune -f KEY SHA256SUMS
    ssh-keygen -Y verify -n edgeprune -f ALLOWED_SIGNERS -I WHO -s SHA256SUMS.sig < SHA256SUMS
"""

import hashlib
import os
import re
import shutil
import subprocess

NAMESPACE = "edgeprune"
# in every bundle
_LEAST = ("MANIFEST.json", "about.json", "check.py", "dense.onnx", "manifest.py", "parity.npz", "pruned.onnx")
# beside the listed files: what a run here writes, the sums, their signature
_OWN = re.compile(r"result\..*|SHA256SUMS(\.sig)?")
_CODE = (".py", ".pyw", ".pyc", ".pyo", ".so", ".pyd", ".dll")
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


class Fault(Exception):
    """One line for the user."""


def verify(folder, signers=None, who=None):
    """Raises Fault where a file is missing, damaged or not listed, or where signers are given and none of them signed.

    Args:
        signers: a file of allowed signers as ssh-keygen(1) has it; None: no signature is wanted.
        who: the signer's name in it; None: whoever the file says the key belongs to.
    """
    path = os.path.join(folder, "SHA256SUMS")
    if not os.path.isfile(path):
        raise Fault("%s is missing; copy the whole bundle" % path)
    if signers:
        signature(path, signers, who)
    sums = _sums(path)
    for name, digest in sums.items():
        file = os.path.join(folder, name)
        if os.path.basename(name) != name or not os.path.isfile(file):
            raise Fault("%s is missing; copy the whole bundle" % file)
        found = hashlib.sha256()
        with open(file, "rb") as content:
            for block in iter(lambda: content.read(1 << 20), b""):  # noqa: B023
                found.update(block)
        if found.hexdigest() != digest:
            raise Fault("%s is damaged (its checksum differs); copy the bundle again" % file)
    for name in _LEAST:
        if name not in sums:
            raise Fault("%s: does not list %s; it was cut off or changed; copy the whole bundle" % (path, name))
    for name in sorted(os.listdir(folder)):
        file = os.path.join(folder, name)
        # caches are taken for the scripts beside them
        if name not in sums and (name == "__pycache__" or importable(file)):
            raise Fault("%s is no part of the bundle, and Python would import it; remove it" % file)
        if os.path.islink(file):
            raise Fault("%s is a link; a bundle has none; remove it" % file)
        if name not in sums and not _OWN.fullmatch(name) and not os.path.isdir(file):
            raise Fault("%s is no part of the bundle, and might be believed as one; remove it" % file)
    return sums


def _sums(path):
    """Name -> digest, of lines as sha256sum writes them."""
    with open(path, "rb") as handle:
        lines = handle.read().decode("utf-8", "replace").splitlines()
    found = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if not line:
            continue
        if not match:
            raise Fault(
                "%s:%d: is no line of checksums (64 hexadecimal digits, two spaces, a name); copy the whole bundle"
                % (path, number)
            )
        found[match.group(2)] = match.group(1)
    return found


def importable(path):
    """Would Python take this, or anything below it, for code? Whatever a folder is called: one without `__init__` is a package, too."""
    if not os.path.isdir(path) or os.path.islink(path):
        return path.endswith(_CODE)
    for home, folders, files in os.walk(path):
        links = [n for n in folders + files if os.path.islink(os.path.join(home, n))]
        if links or any(n.endswith(_CODE) for n in files):
            return True
    return False


def engines_home(folder, signers):
    """Where engines are kept: in the bundle; of a signed one with its user, since nobody has signed what lies in `engines/`."""
    if not signers:
        return os.path.join(folder, "engines")
    with open(os.path.join(folder, "SHA256SUMS"), "rb") as handle:
        digest = hashlib.sha256(handle.read()).hexdigest()[:24]
    return os.path.join(os.path.expanduser("~"), ".cache", "edgeprune", "signed", digest)


def signature(path, signers, who=None):
    """Raises Fault where the file at `path` has no good signature beside it."""
    told = path + ".sig"
    if not os.path.exists(told):
        raise Fault("%s is missing: the bundle is not signed" % told)
    if not shutil.which("ssh-keygen"):
        raise Fault("signatures are checked by ssh-keygen, which is not here; install openssh-client")
    if not os.path.isfile(signers):
        raise Fault("%s: no such file of allowed signers (run.sh looks for it from the bundle's folder)" % signers)
    inside = os.path.join(os.path.realpath(os.path.dirname(path)), "")
    if os.path.realpath(signers).startswith(inside):
        raise Fault(
            "%s lies in the bundle: whoever made that would say who may sign it; give your own file's full path"
            % signers
        )
    if who is None:
        found = _keygen(["find-principals", "-f", signers, "-s", told], path)
        who = found.stdout.decode().strip().splitlines()[0] if found.returncode == 0 and found.stdout.strip() else None
    good = who and _keygen(["verify", "-n", NAMESPACE, "-f", signers, "-I", who, "-s", told], path).returncode == 0
    if not good:
        raise Fault("%s: the signature is not good, or not by one of %s" % (told, signers))


def _keygen(args, path):
    with open(path, "rb") as handle:
        return subprocess.run(
            ["ssh-keygen", "-Y", *args], stdin=handle, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30
        )
