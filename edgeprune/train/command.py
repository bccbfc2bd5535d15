"""Training by a user's own command: it starts from files that lie ready, and leaves its weights where it is told."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from accelerate import PartialState

from edgeprune.errors import CheckpointError, UsageError


def trained_by(command: str, places: Mapping[str, Path], wanted: str, key: str) -> Path:
    """Run a command that trains, without a shell, its output on the terminal; the file of weights that it wrote.

    Args:
        command: words as a shell has them; `{name}` stands for a path.
        places: name -> path.
        wanted: the name whose file the command has to write.
        key: of the recipe, for messages.

    Raises:
        UsageError: it cannot be started, or several processes would each start it.
        CheckpointError: it ended with another status than 0, or wrote no file.
    """
    if PartialState().num_processes > 1:
        raise UsageError(
            f"{key}: each of several processes would start it; run edgeprune as one, and let the command start its own"
        )
    words = shlex.split(command)
    for name, path in places.items():
        words = [word.replace(f"{{{name}}}", str(path.resolve())) for word in words]
    if places[wanted].is_dir():
        shutil.rmtree(places[wanted])
    places[wanted].unlink(missing_ok=True)
    places[wanted].parent.mkdir(parents=True, exist_ok=True)
    try:
        status = subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        raise UsageError(f"{key}: {words[0]} does not start: {error.strerror}") from error
    if status:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        raise CheckpointError(f"{key}: {words[0]} {how}; see what it printed")
    if places[wanted].is_dir():
        raise CheckpointError(f"{key}: {{{wanted}}} has become a folder; one file of weights is wanted")
    if not places[wanted].is_file():
        raise CheckpointError(f"{key}: the command ended well, and {places[wanted]} ({{{wanted}}}) is not there")
    return places[wanted]
