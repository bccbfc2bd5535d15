"""The device's scripts are imported as they are on the device: from their own folder."""

import sys

from edgeprune.shipped import shipped

sys.path.insert(0, str(shipped("deploy/on_device")))
