#!/bin/sh
# Build, check and measure this bundle's engine here: ./run.sh [options of check.py]. Bring result.zip back afterwards.
set -eu
cd "$(dirname "$0")"
sha256sum -c --quiet SHA256SUMS
exec "${PYTHON:-python3}" -B check.py "$@"
