#!/bin/sh
# Build, check and measure this bundle's engine here: ./run.sh [options of check.py]. Bring result.zip back afterwards.
set -eu
cd "$(dirname "$0")"
sha256sum -c --quiet SHA256SUMS
# what nobody listed and Python might take for code, before any Python runs here
found=$(find . ! -name . \( -type l -o -name '*.py' -o -name '*.py?' -o -name '*.so' \) | cut -c3- | grep -vxF -e "$(cut -c67- SHA256SUMS)" | head -n 1)
[ -z "$found" ] || { echo "error: $found is no part of the bundle, and Python would import it; remove it" >&2; exit 1; }
exec "${PYTHON:-python3}" -B check.py "$@"
