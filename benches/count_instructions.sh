#!/bin/sh
# Instructions per multiply-add of the products for 64-bit ARM, counted under emulation; prints Markdown.
#
# usage: count_instructions.sh PROGRAM [ROWS OF INPUTS]
# PROGRAM is kernels/examples/one_product.rs, built for aarch64-unknown-linux-gnu. The emulator (qemu-user 7) takes one
# instruction at a time and logs each; two runs that differ by one product differ by its instructions.
set -eu
program=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT

count() {
    qemu-aarch64-static -cpu max -singlestep -d exec,nochain -D "$log" "$program" "$@"
    wc -l < "$log"
}

echo "| product | instruction set | weights | inputs | instructions | per multiply-add | f32 NEON / this |"
echo "|---|---|---|---|--:|--:|--:|"
for m in ${2:-1 16}; do
    sizes="$m 256 768"
    baseline=
    for row in "neon f32 f32" "neon f16 f32" \
        "neon int8 int8" "neon-dotprod int8 int8" "neon-i8mm int8 int8" \
        "neon int8 f32" "neon-dotprod int8 f32" "neon int4 f32" "neon-dotprod int4 f32" \
        "neon mxfp4 f32" "neon-dotprod mxfp4 f32" "neon nvfp4 f32" "neon-dotprod nvfp4 f32"; do
        # shellcheck disable=SC2086 # words on purpose
        once=$(count $row $sizes 1)
        # shellcheck disable=SC2086
        twice=$(count $row $sizes 2)
        instructions=$((twice - once))
        baseline=${baseline:-$instructions}
        echo "$sizes $row $instructions $baseline" | awk '{
            printf "| %d x %d x %d | %s | %s | %s | %d | %.3f | %.2f |\n",
                $1, $2, $3, $4, $5, $6, $7, $7 / ($1 * $2 * $3), $8 / $7 }'
    done
done
