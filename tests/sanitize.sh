#!/usr/bin/env bash
# Runs the tests of the native engine on libraries that check every access and every operation, and
# what threads do at the same time:
#     tests/sanitize.sh [PYTHON] [pytest's options]
# It needs gcc with libasan, libubsan and libtsan, and leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
shift || true
folder=$(mktemp -d)
# pytest catches what is printed, so a finding is written to a file.
trap 'cat "$folder"/finding.* 2> /dev/null || true; rm -rf "$folder"' EXIT

# A copy of the package with a library of its own: the one in src/ stays as it is.
cp -r src/nnlab "$folder"
suffix=$("$python" -c 'import importlib.machinery as m; print(m.EXTENSION_SUFFIXES[0])')
export PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}"
# Python frees little when it ends, so leaks are not looked for.
export ASAN_OPTIONS="detect_leaks=0:log_path=$folder/finding"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$folder/finding"
export TSAN_OPTIONS="log_path=$folder/finding"

# build SANITIZERS: teams divide whatever they can.
build() {
    rm -f "$folder"/nnlab/engines/_native*
    gcc -std=c11 -O2 -g -fno-omit-frame-pointer -fno-math-errno -ffp-contract=fast \
        -DFEWEST_DIVIDED=1 -fsanitize="$1" -fno-sanitize-recover=all -shared -fPIC \
        -o "$folder/nnlab/engines/_native$suffix" src/nnlab/engines/*.c -lm -lpthread
}

# sanitized LIBRARY MARK COMMAND...: Python itself is not built with them, so the sanitizer's library
# is loaded first; libstdc++ lets it see torch's exceptions. MARK is in what it was built with.
sanitized() {
    local preload
    preload="$(gcc -print-file-name="$1") $(gcc -print-file-name=libstdc++.so)"
    LD_PRELOAD="$preload" "$python" - "$2" <<'CHECK'
import sys

from nnlab.engines import library

missing = library.available()
if missing is not None or sys.argv[1].encode() not in library.library_path().read_bytes():
    raise SystemExit(f"no sanitized library was built: {missing or library.library_path()}")
CHECK
    LD_PRELOAD="$preload" "$python" -m pytest -q -p no:cacheprovider "${@:3}"
}

build address,undefined
# The tests of what is lost in rounding take long and go no other ways; where memory that is gone
# would lie depends on the allocator.
sanitized libasan.so __asan_init -k "not small_updates and not memory_is_gone and not (teams and every_shape)" \
    tests/test_native.py tests/test_dual.py tests/test_teams.py "$@"
build thread
sanitized libtsan.so __tsan_init -k "every_loss or dual or threads_end" tests/test_teams.py "$@"
