#!/usr/bin/env bash
# Builds the CUDA floor for this machine's GPU, tests it against the CPU floor, and measures it.
#
# bench/gpu.sh [STEP ...]: machine, build, tests, conformance, memcheck, racecheck, hashes, bench; all of them without
# an argument. A step that fails does not stop the others; the exit status says whether any did. Nothing is installed.
# GPU_SECONDS (570) is the time for everything; the benchmark takes what the other steps leave.
# Results: bench/results/<gpu>.csv and .md, logs in build/gpu/logs, all of it in $OUT too where that is set.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=$root/build/gpu
logs=$build/logs
python=${PYTHON:-python3}
deadline=$((SECONDS + ${GPU_SECONDS:-570}))
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(machine build tests conformance memcheck racecheck hashes bench)
absent=77 # a step's status where what it needs is not there: said in the summary, and no failure
mkdir -p "$logs"
export PYTHONPATH="$build/python:$root/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export MMK_GPU=${MMK_GPU:-1}

left() { echo $((deadline - SECONDS)); }

machine() {
    nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit \
        --format=csv || return 1
    "$python" - <<'END'
import importlib
for name in ("sys", "numpy", "torch", "torchvision", "cupy", "pybind11", "pytest", "xdist", "ml_dtypes"):
    try:
        module = importlib.import_module(name)
        print(name, getattr(module, "__version__", None) or module.version.split()[0])
    except ImportError:
        print(name, "is not installed")
END
    nvcc --version | tail -2
    cmake --version | head -1
    c++ --version | head -1
}

# Compute capability as CMake wants it: 9.0 and later have instructions of their own generation alone, "90a".
architecture() {
    local capability
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d '. ')
    [[ $capability =~ ^[0-9]+$ ]] || return 1
    if [ "$capability" -ge 90 ]; then echo "${capability}a-real"; else echo "$capability-real"; fi
}

build() {
    local arch generator=()
    arch=${MMK_CUDA_ARCHITECTURES:-$(architecture)} || return 1
    command -v ninja >/dev/null && generator=(-G Ninja)
    echo "for $arch"
    cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DMMKERNELS_CUDA="${MMKERNELS_CUDA:-ON}" \
        -DMMK_CUDA_ARCHITECTURES="$arch" -DSKBUILD_PROJECT_VERSION=0 \
        -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
        -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" || return 1
    cmake --build "$build" -j "${JOBS:-$(nproc)}" || return 1
    rm -rf "$build/python"
    mkdir -p "$build/python"
    cp -r python/mmkernels "$build/python/" || return 1
    rm -f "$build"/python/mmkernels/*.so # modules of other builds
    cp "$build"/_core*.so "$build/python/mmkernels/" || return 1
    if [ "${MMKERNELS_CUDA:-ON}" = ON ]; then
        cp "$build"/_cuda*.so "$build/python/mmkernels/" || return 1
        "$python" -c 'from mmkernels.interop.device import cuda; print(cuda().device_name(0), cuda().multiprocessors(0))'
    fi
}

# Workers have a context each, so that a kernel that faults spoils one test, not all that follow. Deprecations in other
# libraries are not ours to fail for.
run_pytest() {
    local workers=()
    if "$python" -c 'import xdist' 2>/dev/null; then
        workers=(-n "${WORKERS:-8}" --max-worker-restart=60)
        export MMK_NUM_THREADS=${MMK_NUM_THREADS:-2}
    fi
    "$python" -m pytest -q --no-header -p no:cacheprovider --tb=short --maxfail=200 "${workers[@]}" \
        -W default::DeprecationWarning -W default::FutureWarning -W default::UserWarning "$@"
}
# Without pytest-xdist as many processes take a part each; the last lines of all are shown, what failed with them.
tests() {
    if "$python" -c 'import xdist' 2>/dev/null; then
        run_pytest tests/test_gpu*.py
        return
    fi
    local parts=${WORKERS:-8} i status=0 pids=()
    export MMK_NUM_THREADS=${MMK_NUM_THREADS:-2}
    for ((i = 0; i < parts; i++)); do
        MMK_PART=$i/$parts run_pytest tests/test_gpu*.py >"$logs/tests-$i.log" 2>&1 &
        pids+=($!)
    done
    for ((i = 0; i < parts; i++)); do
        wait "${pids[i]}" || status=1
        grep -E '^(FAILED|ERROR|E  )' "$logs/tests-$i.log" | head -40
        tail -1 "$logs/tests-$i.log"
    done
    return $status
}
conformance() {
    if [ ! -e tests/test_conformance.py ]; then
        echo "there is no tests/test_conformance.py"
        return $absent
    fi
    WORKERS=0 run_pytest tests/test_conformance.py # it compiles one file, once
}

sanitizer() {
    local tool
    if ! tool=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1) ||
        [ -z "$tool" ]; then
        echo "compute-sanitizer is not installed"
        return $absent
    fi
    "$tool" --tool "$1" --error-exitcode 9 --print-limit 20 --report-api-errors no "$python" tests/gpu_sanitized.py --seconds "${2:-40}"
}
memcheck() { sanitizer memcheck 35; }
racecheck() { sanitizer racecheck 35; }
hashes() { "$python" tests/gpu_places.py; }
bench() {
    local seconds=$(($(left) - 25))
    "$python" bench/gpu.py --budget "$((seconds < 60 ? 60 : seconds))" --results "$root/bench/results"
}

# The longest that each step may take; what a slow one uses up is missing at the end, where the benchmark is.
limit() {
    case $1 in
    build) echo 240 ;;
    tests) echo 180 ;;
    memcheck | racecheck) echo 75 ;;
    conformance) echo 100 ;;
    bench) echo 400 ;;
    *) echo 60 ;;
    esac
}

summary=()
status=0
for step in "${steps[@]}"; do
    case $step in
    machine | build | tests | conformance | memcheck | racecheck | hashes | bench) ;;
    *)
        echo "unknown step: $step" >&2
        exit 2
        ;;
    esac
    printf '\n== %s (%s s; %s s left)\n' "$step" "$SECONDS" "$(left)"
    start=$SECONDS
    seconds=$(limit "$step")
    [ "$seconds" -le "$(left)" ] || seconds=$(left)
    if [ "$seconds" -lt 10 ]; then
        rc=124
    else
        # A step is a shell of its own, so that timeout ends all that it started.
        export -f left machine architecture build run_pytest tests conformance sanitizer memcheck racecheck hashes bench
        export root build logs python deadline absent
        SHELL_SECONDS=$SECONDS timeout --kill-after=10 "$seconds" bash -c 'set -uo pipefail; SECONDS=$SHELL_SECONDS; '"$step" 2>&1 |
            tee "$logs/$step.log"
        rc=${PIPESTATUS[0]}
    fi
    case $rc in
    0) word=passed ;;
    "$absent") word="NOT RUN" ;;
    124 | 137) word="ran out of time" ;;
    *) word="FAILED ($rc)" ;;
    esac
    [ "$rc" -eq 0 ] || [ "$rc" -eq "$absent" ] || status=1
    summary+=("$(printf '%-12s %-16s %4s s  %s' "$step" "$word" "$((SECONDS - start))" "$(tail -1 "$logs/$step.log" 2>/dev/null | cut -c1-90)")")
done
printf '\n== summary\n'
printf '%s\n' "${summary[@]}" | tee "$logs/summary.txt"
if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT/results"
    cp "$root"/bench/results/*.csv "$root"/bench/results/*.md "$OUT/results/" 2>/dev/null
    cat "$logs"/*.log >"$OUT/logs.txt" 2>/dev/null
    cp "$logs/summary.txt" "$OUT/"
fi
exit $status
