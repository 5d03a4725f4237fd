#!/bin/bash
# Trains a small MEGABYTE on the Perl manual for two minutes, scores text that it has not seen beside
# three compressors, and lets it write. Everything it makes lies in out/quickstart.
#   MINUTES=2 SEED=1 scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${MINUTES:-2}
out=out/quickstart
megabyte=build/megabyte
export LC_ALL=C

# The manual's own sources (package perl-doc, English, 7.9 MB). Left out: perltoc, which repeats the
# headings of all the others, and perluniprops, a generated table.
pods=$(perl -e 'for (@INC) { for my $d ("$_/pod", "$_/pods") { if (-e "$d/perlfunc.pod") { print $d; exit } } }')
[[ -n $pods ]] || {
  echo "quickstart: no perlfunc.pod in Perl's folders; please install the Perl manual (Debian: perl-doc)" >&2
  exit 1
}
mkdir -p "$out"
find "$pods" -name '*.pod' ! -name perltoc.pod ! -name perluniprops.pod | sort | xargs cat >"$out/text"
size=$(stat -c %s "$out/text")
held_out=$((size / 20))
head -c $((size - held_out)) "$out/text" >"$out/train.txt"
tail -c "$held_out" "$out/text" >"$out/heldout.txt"
rm "$out/text"

echo
echo "Training on $((size - held_out)) bytes of the Perl manual for $minutes minutes"
$megabyte train --data "$out/train.txt" --valid "$out/heldout.txt" --out "$out/model" --overwrite \
  --preset quickstart --minutes "$minutes" --seed "${SEED:-1}"

echo
echo "Bits per byte of the $held_out bytes that were held out"
bits() { awk -v bytes="$1" -v size="$held_out" 'BEGIN { printf "%.3f", 8 * bytes / size }'; }
for compressor in gzip bzip2 xz; do
  printf '  %-14s %s\n' "$compressor -9" "$(bits "$($compressor -9 -c "$out/heldout.txt" | wc -c)")"
done
score=$($megabyte eval --model "$out/model" --data "$out/heldout.txt" --method sliding --json)
printf '  %-14s %.3f\n' megabyte "$(sed -nE 's/.*"bpb": *([0-9.]+).*/\1/p' <<<"$score" | head -1)"

echo
echo "What it writes after \"=head1 NAME\":"
echo
$megabyte generate --model "$out/model" --prompt $'=head1 NAME\n\n' --echo --bytes 600 \
  --temperature 0.8 --seed "${SEED:-1}" | tr -cd '\11\12\40-\176' | sed 's/^/  | /'

cat <<END

The model is in $out/model. To go on:
  $megabyte generate --model $out/model --prompt "The function" --bytes 500
  $megabyte eval --model $out/model --data README.md
  $megabyte info $out/model
  $megabyte train --out $out/model --resume --minutes 10     # eight minutes more
  $megabyte train --data YOUR-FILES --out my-model           # your own data
END
