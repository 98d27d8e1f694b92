#!/usr/bin/env bash
# Builds the image of infra/Dockerfile with buildah, and runs it as its own user: a picture into an archive and back.
# Where the base image cannot be had, Debian's Python stands in for it, in a root file system made by debootstrap.
# A folder of wheels named by PIP_FIND_LINKS, and PIP_CERT, are there while it is built.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in buildah debootstrap; do command -v $tool > /dev/null || { apt-get update -qq; apt-get install -qq -y --no-install-recommends $tool; }; done
scratch=$(mktemp -d) made=() && trap '[ ${#made[@]} = 0 ] || buildah rm "${made[@]}" > /dev/null; rm -rf "$scratch"' EXIT

base=docker.io/library/$(sed -n 's/^FROM //p' infra/Dockerfile)
if [ -z "$(buildah images --quiet "$base" 2> /dev/null)" ] && ! timeout 120 buildah pull --quiet "$base"; then
    echo "no $base to be had: Debian's Python stands in for it"
    debootstrap --variant=minbase --include=ca-certificates,libgomp1,python3,python3-pip,python3-venv bookworm "$scratch/root" > /dev/null
    rm -f "$scratch"/root/usr/lib/python3*/EXTERNALLY-MANAGED && ln -s python3 "$scratch/root/usr/bin/python"
    made+=("$(buildah from scratch)")
    buildah add --quiet "${made[0]}" "$scratch/root" / > /dev/null
    buildah config --env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "${made[0]}"
    buildah commit --quiet "${made[0]}" "$base" > /dev/null
fi

printf '[global]\nretries = 1\n' > "$scratch/pip.conf"
there=(--volume "$scratch/pip.conf:/etc/pip.conf:ro")
[ ! -d "${PIP_FIND_LINKS:-}" ] || { echo "find-links = $PIP_FIND_LINKS" >> "$scratch/pip.conf"; there+=(--volume "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro"); }
[ ! -f "${PIP_CERT:-}" ] || { echo "cert = $PIP_CERT" >> "$scratch/pip.conf"; there+=(--volume "$PIP_CERT:$PIP_CERT:ro"); }
buildah bud --layers --quiet --isolation chroot --network host --pull-never --format docker "${there[@]}" -f infra/Dockerfile -t localhost/fdcodec:proof . > /dev/null

run=$(buildah from --pull-never localhost/fdcodec:proof) && made+=("$run")
in_image() { buildah run --isolation chroot "$run" -- "$@"; }
buildah inspect --type image --format '{{.Docker.Config.Healthcheck.Test}}' localhost/fdcodec:proof | grep --quiet 8080/health
[ "$(in_image id -u)" = 1000 ]
in_image python -c "import flows.serve, prefect_docker, prefect_kubernetes; print('workers of every kind are there')"
in_image python -c "from PIL import Image; import os; os.makedirs('s'); Image.linear_gradient('L').convert('RGB').save('s/a.png')"
in_image python -m flows.compress_archive s a --metrics none --threads 1
in_image python -m flows.restore_archive a out --threads 1
in_image python -c "from PIL import Image; assert Image.open('out/a.png').size == (256, 256); print('a picture came back from the image')"
