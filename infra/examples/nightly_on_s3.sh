#!/usr/bin/env bash
# Compresses what is new, then checks the archive. Run it every night, from cron or a systemd timer:
#
#   0 2 * * *  bash nightly_on_s3.sh /srv/photos s3://bucket/archive
#
# Credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role; another maker's server is AWS_ENDPOINT_URL.
# An interrupted night is finished by the next one.
set -uo pipefail
photos=$1 archive=$2

fdc archive compress "$photos" "$archive" --quality 8
compressed=$? # 0: done; 2: some pictures failed, and the next night tries them again; 1: it could not run

fdc archive audit "$archive" --sample 0.05
audited=$? # 0: every object is there, and a twentieth of the pictures decode; 2: damage; 1: it could not run

fdc archive sql "$archive" "SELECT status, count(*) AS files, sum(bytes) AS bytes FROM rows GROUP BY status"
[ $audited -eq 0 ] && exit $compressed || exit $audited
