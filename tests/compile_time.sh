#!/usr/bin/env bash
# What rustc makes of a machine of fifty steps: the macros' against the same machine by hand.
#
# Builds both once, with all that they depend on, and then each of them several times in turn after
# a change of the machine alone. Prints the medians in milliseconds and their ratio; a ratio of 1.3 is
# the limit that the project has set itself. Fails if rustc generates code anew for an item beside the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
steps=50 rounds=7
work=target/compile_time
mkdir -p "$work"/{macros,by_hand}/src

manifest() {
    printf '[package]\nname = "%s"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n\n' "$1"
    printf '[dependencies]\ngen_durable = { path = "../../../gen_durable" }\nserde = { version = "1", features = ["derive"] }\n'
}

body() {
    local next="cx.next(Machine::S$(($1 + 1)))"
    [[ $1 -eq $steps ]] && next='let n = cx.state.n; cx.done(n)'
    printf '    async fn s%s(mut cx: Context<Self>) -> Outcome<Self> {\n        cx.state.n += %s;\n        %s\n    }\n' \
        "$1" "$1" "$next"
}

each() { for n in $(seq 1 "$steps"); do printf '%b' "${1//%s/$n}"; done; }

macros() {
    printf 'use gen_durable::prelude::*;\n\n#[derive(Default, DurableState)]\npub struct State {\n    pub n: i64,\n}\n\n'
    printf '#[durable_fsm(state = State, output = i64)]\npub enum Machine {\n%s\n}\n\n' "$(each '    S%s,\n')"
    printf '#[durable_fsm]\nimpl Machine {\n%s\n}\n' "$(for n in $(seq 1 "$steps"); do body "$n"; done)"
}

by_hand() {
    printf 'use gen_durable::{machine::{Machine as Spec, StepFuture, Steps}, prelude::*};\n\n'
    printf '#[derive(Default, serde::Serialize, serde::Deserialize)]\npub struct State {\n    pub n: i64,\n}\n\nimpl DurableState for State {}\n\n'
    printf 'pub enum Machine {\n%s\n}\n\n' "$(each '    S%s,\n')"
    printf 'impl Machine {\n    pub fn insert(state: State) -> Insert<Self> {\n        Insert::new(state)\n    }\n\n%s\n}\n\n' \
        "$(for n in $(seq 1 "$steps"); do body "$n"; done)"
    printf 'impl Spec for Machine {\n    type State = State;\n    type Output = i64;\n'
    printf '    const NAME: &str = "machine";\n    const VERSION: u32 = 1;\n    const INITIAL: Self = Machine::S1;\n'
    printf '    const STEPS: &[&str] = &[%s];\n' "$(each '"s%s", ')"
    printf '    fn name(&self) -> &'\''static str {\n        match self {\n%s\n        }\n    }\n' \
        "$(each '            Machine::S%s => "s%s",\n')"
    printf '    fn from_name(name: &str) -> Option<Self> {\n        Some(match name {\n%s\n            _ => return None,\n        })\n    }\n}\n\n' \
        "$(each '            "s%s" => Machine::S%s,\n')"
    printf 'impl Steps for Machine {\n    fn run(self, cx: Context<Self>, _: &Resources) -> StepFuture<'\''_, Self> {\n        match self {\n%s\n        }\n    }\n}\n' \
        "$(each '            Machine::S%s => Box::pin(async move { Ok(Self::s%s(cx).await) }),\n')"
}

for kind in macros by_hand; do
    manifest "$kind" >"$work/$kind/Cargo.toml"
    "$kind" >"$work/$kind/src/lib.rs"
    cp Cargo.lock "$work/$kind/"
    CARGO_TARGET_DIR="$work/target" cargo build --quiet --manifest-path "$work/$kind/Cargo.toml"
done

build() {
    printf '\npub const ROUND: u32 = %s;\n' "$2" >>"$work/$1/src/lib.rs"
    sed -i '$!{/^pub const ROUND/d}' "$work/$1/src/lib.rs"
    local began
    : >"$work/began"
    began=$(date +%s%N)
    CARGO_TARGET_DIR="$work/target" cargo build --quiet --manifest-path "$work/$1/Cargo.toml"
    echo $((($(date +%s%N) - began) / 1000000))
}

# What the last build has written; what it took over from the one before keeps its time.
objects_written() { find "$work/target/debug/incremental/$1"-*/s-*/ -name '*.o' -newer "$work/began" | wc -l; }

median() { sort -n | sed -n "$((rounds / 2 + 1))p"; }

for incremental in 1 0; do
    export CARGO_INCREMENTAL=$incremental
    for kind in macros by_hand; do build "$kind" 0 >/dev/null; : >"$work/$kind.times"; done
    for round in $(seq 1 "$rounds"); do
        for kind in macros by_hand; do
            build "$kind" "$round" >>"$work/$kind.times"
            if [[ $incremental == 1 && $(objects_written "$kind") != 0 ]]; then
                echo "$kind: code was generated anew, though the machine is the same" >&2
                exit 1
            fi
        done
    done
    macros_ms=$(median <"$work/macros.times") by_hand_ms=$(median <"$work/by_hand.times")
    name=$([[ $incremental == 1 ]] && echo incremental || echo clean)
    printf '%s: macros %s ms, by hand %s ms, ratio %s\n' "$name" "$macros_ms" "$by_hand_ms" \
        "$(awk "BEGIN { printf \"%.2f\", $macros_ms / $by_hand_ms }")"
done
