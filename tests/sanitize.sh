#!/usr/bin/env bash
# Runs the tests of the native engine on a library that checks every access and every operation:
#     tests/sanitize.sh [PYTHON] [pytest's options]
# It needs gcc with libasan and libubsan, and leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
shift || true
folder=$(mktemp -d)
# pytest catches what is printed, so a finding is written to a file.
trap 'cat "$folder"/finding.* 2> /dev/null || true; rm -rf "$folder"' EXIT

# A copy of the package with a library of its own: the one in src/ stays as it is.
cp -r src/nnlab "$folder"
rm -f "$folder"/nnlab/engines/_native*
suffix=$("$python" -c 'import importlib.machinery as m; print(m.EXTENSION_SUFFIXES[0])')
gcc -std=c11 -O2 -g -fno-omit-frame-pointer -fno-math-errno -ffp-contract=fast \
    -fsanitize=address,undefined -fno-sanitize-recover=all -shared -fPIC \
    -o "$folder/nnlab/engines/_native$suffix" src/nnlab/engines/*.c -lm

# Python itself is not built with them, so they are loaded first; libstdc++ lets them see torch's
# exceptions. Python frees little when it ends, so leaks are not looked for.
export PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}"
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
export ASAN_OPTIONS="detect_leaks=0:log_path=$folder/finding"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$folder/finding"
"$python" - <<'CHECK'
from nnlab.engines import library

missing = library.available()
if missing is not None or b"__asan_init" not in library.library_path().read_bytes():
    raise SystemExit(f"no sanitized library was built: {missing or library.library_path()}")
CHECK
# The tests of what is lost in rounding take long and go no other ways; where memory that is gone
# would lie depends on the allocator.
"$python" -m pytest -q -p no:cacheprovider -k "not small_updates and not memory_is_gone" \
    tests/test_native.py tests/test_dual.py "$@"
