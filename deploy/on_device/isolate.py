"""What may be imported: Python's own modules, installed ones, and this folder's scripts by their names. Nothing else that lies here.

Python looks for a module beside the script that it was started with before it looks anywhere else. An argparse.py, a numpy/ or a
compiled __pycache__/manifest.cpython-38.pyc beside a bundle's scripts would run before the bundle is checked. So every script that
is started directly executes this file before it imports anything. (`python3 -I` would do the first half, but it also hides what
`pip install --user` has installed, which is where many boards have numpy; and whoever starts a script by hand would have to know.)
"""

import posix  # as sys it is built in: no file can take its place
import sys


def place(path):
    """The folder that a path leads to, however it is written; None where there is none."""
    try:
        told = posix.stat(path)
    except OSError:
        return None
    return told.st_dev, told.st_ino


# beside the scripts; and the entries of PYTHONPATH that hang on the working folder (an empty one is that folder)
told = posix.environ.get(b"PYTHONPATH")
unsafe = [one or b"." for one in told.split(b":") if one[:1] != b"/"] if told else []
unsafe = {place(one) for one in (__file__.rpartition("/")[0], *unsafe)} - {None}
sys.path[:] = [entry for entry in sys.path if place(entry or ".") not in unsafe]

import importlib.util
import os
from importlib.machinery import SourceFileLoader

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = {
    "agent", "board", "boxes", "check", "clocks", "cuda_runtime", "doctor", "engines", "frames", "identity", "jetpack", "layers",
    "lease", "manifest", "measuring", "play", "pngs", "saying", "score", "tegrastats", "trt", "trt_build",
}  # fmt: skip


class Source(SourceFileLoader):
    """A script of this folder as it is written; what lies in __pycache__ for it may be anything."""

    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path), self.path)


class Scripts:
    """Finds this folder's scripts, before an installed module of the same name (`board` is Adafruit's, too)."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        file = os.path.join(HERE, name + ".py")
        if name not in SCRIPTS or not os.path.isfile(file):
            return None
        return importlib.util.spec_from_file_location(name, file, loader=Source(name, file))


sys.meta_path.insert(0, Scripts)
