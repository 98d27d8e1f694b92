#!/usr/bin/env bash
# What takes too long for infra/test.sh, or needs what it has not; by name, or all. The last result of each part stands,
# with commit and date, in tests/benchmarks/results/proof-NAME.md.
#   bash infra/proof.sh [image | postgresql | kubernetes | stores | busy | kills]...
set -uo pipefail
cd "$(dirname "$0")/.."
[ -n "${VIRTUAL_ENV:-}" ] || { bash infra/setup.sh || exit 1; export PATH="$PWD/.venv/bin:$PATH"; }
export PYTHONPATH="$PWD" DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
tests() { # all of them pass, and none is skipped
    pytest -q --no-cov -n "${PROCESSES:-0}" "$@" | tee build/tests.log && ! grep -E '^(SKIPPED|[0-9]+ skipped)|, [0-9]+ skipped' build/tests.log
}
image() { bash infra/image.sh; }
stores() { python -m tests.benchmarks.stores; }
postgresql() {
    ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || apt-get install -qq -y --no-install-recommends postgresql
    tests tests/flows/test_postgres.py
}
kubernetes() { # a place of its own: the tested tree must not change
    python3 -m venv build/kubernetes && build/kubernetes/bin/pip install --quiet --constraint infra/constraints.txt prefect-kubernetes || return 1
    FDC_KUBERNETES_PYTHON=$PWD/build/kubernetes/bin/python tests tests/flows/test_kubernetes_worker.py
}
busy() { # the tests marked so, beside two processes that never rest
    (while :; do :; done) & local first=$!
    (while :; do :; done) & local second=$!
    tests -m timing; local status=$?; kill "$first" "$second"; return $status
}
kills() {
    tests tests/tasks/compress/test_kill.py tests/tasks/maintenance tests/flows/test_server_gone.py -k "kill or dies or ended" && python -m tests.benchmarks.random_kills --kills 10
}
all=(image postgresql kubernetes stores busy kills) failed=0 && mkdir -p build
[ $# -gt 0 ] || set -- "${all[@]}"
for part; do
    case " ${all[*]} " in *" $part "*) ;; *) echo "error: no part $part: ${all[*]}" >&2; exit 2 ;; esac
    SECONDS=0 said=passed when=$(date -u '+%Y-%m-%d %H:%M') at=$(git describe --always --dirty)
    "$part" > "build/proof-$part.log" 2>&1 || { said=failed; failed=1; }
    printf '# Proof: %s\n\n`bash infra/proof.sh %s` %s at %s, %s UTC, in %s s.\n\n```\n%s\n```\n' "$part" "$part" "$said" "$at" "$when" "$SECONDS" \
        "$(tail -n 6 "build/proof-$part.log" | tr -d '\0' | cut -c 1-160 | sed "s|$PWD/||g")" > "tests/benchmarks/results/proof-$part.md"
    echo "$part: $said in $SECONDS s; see build/proof-$part.log"
done
exit $failed
