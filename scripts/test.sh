#!/usr/bin/env bash
# All checks and tests of firn, on a Debian 12 machine with Rust.
#
#   scripts/test.sh                  every step below, in this order
#   scripts/test.sh fmt clippy       only these
#
# Steps:
#   setup    Debian packages and cargo tools, installed where they are missing
#   fmt      rustfmt
#   deny     licences, bans, sources and advisories of the dependencies
#   clippy   lints on all targets, warnings are errors
#   doc      rustdoc, warnings are errors
#   build    everything that the next three steps run
#   test     unit, property, conformance and end-to-end tests
#   doctest  examples in the documentation
#   simnet   simulations of one consumer, of swarms and of the store's disk: a fixed set of seeds and a few fresh ones
#
# And one that runs only where it is named, for about four hours:
#   long     20,000 peers that come and go, and an hour of a peer that makes up its QUIC frames
#
# The end-to-end tests make network namespaces and mounts, which takes root: run by another user, the tests are
# started through sudo. A step that fails does not keep the others from running; the exit code is 0 if all passed.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TERM_COLOR=never NEXTEST_COLOR=never

readonly ALL_STEPS=(setup fmt deny clippy doc build test doctest simnet)
readonly LONG_STEPS=(long)
readonly CARGO_DENY_VERSION=0.20.2
readonly SIMNET_SEEDS_FIXED=500
readonly SIMNET_SEEDS_FRESH=100
readonly DISK_SEEDS_FIXED=2000
readonly DISK_SEEDS_FRESH=100
# What the steps need: the command and the Debian package that has it.
readonly COMMANDS=(cc:gcc curl:curl ip:iproute2 make:make nginx:nginx-light nix-store:nix-bin python3:python3 setpriv:util-linux
    zstd:zstd)

tools_dir="${XDG_CACHE_HOME:-$HOME/.cache}/firn-test-tools"
target_dir="${CARGO_TARGET_DIR:-target}"
logs_dir="$(mktemp -d)"
trap 'rm -rf "$logs_dir"' EXIT
export PATH="$tools_dir/bin:$PATH:/usr/sbin:/sbin"

say() { printf '%s\n' "$*"; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        say "cannot run '$*': this takes root, or sudo without a password"
        return 1
    fi
}

install_debian_packages() {
    local missing=() entry
    for entry in "${COMMANDS[@]}"; do
        command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
    done
    if [ "${#missing[@]}" -eq 0 ]; then
        say "all Debian packages are there"
        return
    fi
    say "installing Debian packages: ${missing[*]}"
    command -v apt-get >/dev/null || { say "no apt-get here: install ${missing[*]} by hand"; return 1; }
    as_root apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
}

step_setup() {
    install_debian_packages || return 1
    if ! cargo nextest --version >/dev/null 2>&1; then
        say "installing cargo-nextest"
        cargo install --locked --quiet --root "$tools_dir" cargo-nextest || return 1
    fi
    if ! cargo deny --version >/dev/null 2>&1; then
        say "installing cargo-deny $CARGO_DENY_VERSION"
        # Unoptimised it compiles in a quarter of the time, and still checks in seconds.
        CARGO_PROFILE_DEV_DEBUG=0 cargo install --debug --locked --quiet --root "$tools_dir" \
            cargo-deny --version "$CARGO_DENY_VERSION" || return 1
    fi
    cargo fetch --locked --quiet
}

step_fmt() { cargo fmt --all --check; }

step_deny() {
    cargo deny --workspace --locked check --hide-inclusion-graph licenses bans sources || return 1
    if timeout 60 cargo deny --locked fetch db >"$logs_dir/advisories" 2>&1; then
        cargo deny --workspace --locked check --disable-fetch advisories
    else
        say "advisories: SKIPPED, the advisory database could not be had"
    fi
}

step_clippy() { cargo clippy --locked --workspace --all-targets --quiet -- -D warnings; }

step_doc() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet; }

# The same packages and targets for everything that runs, so that no dependency is built twice.
step_build() { cargo build --locked --workspace --bins --examples --tests --quiet; }

step_test() {
    local runner=()
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || { say "the end-to-end tests take root, or sudo without a password"; return 1; }
        runner=(env "CARGO_TARGET_$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')_RUNNER=sudo -nE env PATH=$PATH")
    fi
    "${runner[@]}" cargo nextest run --locked --workspace --no-fail-fast 2>&1 | tee "$logs_dir/test"
}

step_doctest() { cargo test --locked --workspace --doc --quiet 2>&1 | tee "$logs_dir/doctest"; }

step_simnet() {
    local simnet="$target_dir/debug/firn-simnet" fresh_from
    [ -x "$simnet" ] || step_build || return 1
    fresh_from=$(($(od -An -N4 -tu4 /dev/urandom) + SIMNET_SEEDS_FIXED + DISK_SEEDS_FIXED))
    say "fixed seeds from 0, then fresh seeds from $fresh_from"
    "$simnet" --seeds "$SIMNET_SEEDS_FIXED" && "$simnet" --seeds "$SIMNET_SEEDS_FRESH" --from "$fresh_from" &&
        "$simnet" disk --seeds "$DISK_SEEDS_FIXED" && "$simnet" disk --seeds "$DISK_SEEDS_FRESH" --from "$fresh_from"
}

step_long() {
    FIRN_SHORT_PEERS=20000 FIRN_FRAMES_SECONDS=3600 cargo nextest run --locked --workspace --profile long --no-fail-fast \
        -E 'test(many_short_peers_end_nobody) + test(frames_that_are_made_up)' 2>&1 | tee "$logs_dir/test"
}

# Adds up what nextest and the doc tests counted, as "N passed, N failed".
count_tests() {
    local log passed=0 failed=0 number what
    for log in "$logs_dir/test" "$logs_dir/doctest"; do
        [ -f "$log" ] || continue
        while read -r number what; do
            case "$what" in
                passed) passed=$((passed + number)) ;;
                failed | "timed out") failed=$((failed + number)) ;;
            esac
        done < <(grep -E '^ *Summary \[|^test result: ' "$log" | grep -oE '[0-9]+ (passed|failed|timed out)')
    done
    say "$passed passed, $failed failed"
}

run_step() {
    local name="$1" started=$SECONDS outcome=ok code
    say "== $name"
    # Not as a condition of "if", which would switch errexit off inside.
    set +e
    (set -e; "step_$name") </dev/null
    code=$?
    set -e
    [ "$code" -eq 0 ] || outcome=FAILED
    results+=("$(printf '%-8s %-6s %5d s' "$name" "$outcome" "$((SECONDS - started))")")
    [ "$outcome" = ok ] || failures=$((failures + 1))
    say "== $name: $outcome, $((SECONDS - started)) s"
}

main() {
    local steps=("$@") step
    [ "${#steps[@]}" -gt 0 ] || steps=("${ALL_STEPS[@]}")
    for step in "${steps[@]}"; do
        if [[ " ${ALL_STEPS[*]} ${LONG_STEPS[*]} " != *" $step "* ]]; then
            say "no step \"$step\"; there are: ${ALL_STEPS[*]} ${LONG_STEPS[*]}"
            exit 2
        fi
    done
    results=() failures=0
    for step in "${steps[@]}"; do run_step "$step"; done
    say ""
    printf '%s\n' "${results[@]}"
    say "total           $(printf '%5d' "$SECONDS") s"
    if [ -f "$logs_dir/test" ]; then
        grep -E '^ *Summary \[' "$logs_dir/test" || say "nextest came to no summary"
        count_tests
    fi
    [ "$failures" -eq 0 ] || { say "$failures of ${#steps[@]} steps failed"; exit 1; }
}

main "$@"
