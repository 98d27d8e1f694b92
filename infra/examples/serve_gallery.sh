#!/usr/bin/env bash
# Shows a folder of photos in the browser, from its archive: bash serve_gallery.sh PHOTOS ARCHIVE [PORT]
# It prints its address, asks for no password on the loopback interface, and ends with Ctrl-C.
set -euo pipefail
photos=$1 archive=$2 port=${3:-8420}

fdc archive compress "$photos" "$archive" --quality 8 >&2
exec python -m flows.gateway "$archive" --port "$port"
