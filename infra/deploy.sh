#!/usr/bin/env bash
# Creates the work pool and deploys every flow to the Prefect server at PREFECT_API_URL; again, it brings them up to date.
#   FDC_SOURCE=s3://bucket/photos FDC_ARCHIVE=s3://bucket/archive infra/deploy.sh [process | docker | kubernetes]
# FDC_SOURCE and FDC_ARCHIVE are what the nightly compress-archive reads and grows: full paths or URLs. Optional:
# FDC_WORK, where datasets, trainings, restored pictures and evaluations go (default: FDC_ARCHIVE with -work behind it);
# FDC_MIRROR, a plain copy of the archive: drill-archive restores pictures from it, every month;
# FDC_NAME, a word that tells a second archive's deployments apart: compress-archive/compress-archive-WORD;
# FDC_S3_BLOCK, the Prefect block with the credentials of s3:// (infra/docs/operating.md, S3).
# docker and kubernetes also need FDC_IMAGE, an image made of infra/Dockerfile.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
[ -x "$here/../.venv/bin/prefect" ] && export PATH="$PATH:$here/../.venv/bin"
stop() { echo "error: $*" >&2; exit 1; }
given() { [ -n "${!1:-}" ] || stop "$1 is empty: $2"; }
place() {
  given "$1" "give a full path or a URL"
  case ${!1} in /* | ?*://?*) ;; *) stop "$1=${!1} is relative, and a deployment can run on any machine: give a full path or a URL" ;; esac
}

kind=${1:-process}
file=$here/prefect-$kind.yaml
case $kind in
  process) file=$here/prefect.yaml ;;
  docker | kubernetes) given FDC_IMAGE "name the image that the runs use" ;;
  *) stop "no work pool of the kind $kind: process, docker or kubernetes" ;;
esac
given PREFECT_API_URL "deployments live on a server: start one with \`prefect server start\`"
place FDC_SOURCE
place FDC_ARCHIVE
export FDC_MIRROR=${FDC_MIRROR:-}
export FDC_WORK=${FDC_WORK:-${FDC_ARCHIVE%/}-work} FDC_SUFFIX=${FDC_NAME:+-$FDC_NAME} FDC_S3_BLOCK=${FDC_S3_BLOCK:-}
place FDC_WORK
[ -z "$FDC_MIRROR" ] || place FDC_MIRROR
python=$(dirname "$(command -v prefect)")/python
template=$here/pools/$kind.yaml
[ -f "$template" ] || template=
"$python" -m flows.prepare_server before "$kind" "$here/crashed.yaml" "$template"
prefect --no-prompt deploy --all --prefect-file "$file"
"$python" -m flows.prepare_server after "$here/schedules.yaml"
