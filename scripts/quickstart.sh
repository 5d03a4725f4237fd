#!/bin/bash
# The first minutes. With the model in the box: a continued prompt, a scored file, a compressed file. Then
# a small MEGABYTE is trained for two minutes, on the Perl manual or on text of your own, scores a part that it has
# not seen beside three compressors, and writes. Everything it makes lies in out/quickstart.
#   DATA=FILE-OR-FOLDER MINUTES=2 SEED=1 scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${MINUTES:-2}
seed=${SEED:-1}
data=${DATA:-}
out=out/quickstart
megabyte=build/megabyte
export LC_ALL=C
mkdir -p "$out"

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
# A command as it would be typed.
typed() {
  local word line=""
  for word in "$@"; do [[ $word =~ ^[[:alnum:]./=_-]+$ ]] && line+="$word " || line+="${word@Q} "; done
  printf '  $ %s\n' "$line"
}
show() {
  typed "$@"
  "$@"
}
# What a model writes; bytes that are no text would upset a terminal.
written() {
  typed "$@"
  "$@" | tr -cd '\11\12\40-\176\200-\377' | fold -s -w 100 | sed 's/^/  | /'
  echo
}
size() { stat -c %s "$1"; }
bits() { awk -v bytes="$1" -v size="$2" 'BEGIN { printf "%.3f", 8 * bytes / size }'; }

title "The model in the box continues a prompt"
written $megabyte generate --prompt "It was a dark and stormy night" --echo --bytes 300 --temperature 0.7 --seed "$seed"

title "It scores a file: bits for each byte of README.md, which it has never seen"
show $megabyte eval --data README.md

title "It compresses: this program's documentation, which it has never seen either"
cat docs/*.md >"$out/docs.md"
show $megabyte compress "$out/docs.md" --force
show $megabyte decompress "$out/docs.md.mbz" -o "$out/docs.back" --force
cmp "$out/docs.md" "$out/docs.back"
original=$(size "$out/docs.md")
row() { printf '  %-20s %8s bytes  %s bits per byte\n' "$1" "$2" "$(bits "$2" "$original")"; }
row "docs.md" "$original"
for compressor in "gzip -9" "bzip2 -9" "xz -9e"; do row "$compressor" "$($compressor -c "$out/docs.md" | wc -c)"; done
row "megabyte compress" "$(size "$out/docs.md.mbz")"

# The Perl manual's own sources (package perl-doc, English, 7.9 MB). Left out: perltoc, which repeats the
# headings of all the others, and perluniprops, a generated table.
if [[ -z $data ]]; then
  name="the Perl manual" prompt=$'=head1 NAME\n\n'
  data=$(perl -e 'for (@INC) { for my $d ("$_/pod", "$_/pods") { if (-e "$d/perlfunc.pod") { print $d; exit } } }')
  [[ -n $data ]] || {
    echo "quickstart: no perlfunc.pod in Perl's folders; please install the Perl manual (Debian: perl-doc)" >&2
    exit 1
  }
  files=(-name '*.pod' ! -name perltoc.pod ! -name perluniprops.pod)
else
  name=$data prompt=
  [[ -r $data ]] || { echo "quickstart: cannot read DATA=$data: name a file or a folder" >&2; exit 1; }
  files=()
fi
find -L "$data" -type f "${files[@]}" -print0 | sort -z | xargs -0 -r cat >"$out/text"
whole=$(size "$out/text")
held_out=$((whole / 20))
((held_out >= 1000)) || { echo "quickstart: $name has $whole bytes; training wants 20000 and more" >&2; exit 1; }
head -c $((whole - held_out)) "$out/text" >"$out/train.txt"
tail -c "$held_out" "$out/text" >"$out/heldout.txt"
rm "$out/text"

title "A model of your own: training on $((whole - held_out)) bytes of $name for $minutes minutes"
show $megabyte train --data "$out/train.txt" --valid "$out/heldout.txt" --out "$out/model" --overwrite \
  --preset quickstart --minutes "$minutes" --seed "$seed"

title "Bits per byte of the $held_out bytes that were held out"
for compressor in "gzip -9" "bzip2 -9" "xz -9e"; do
  printf '  %-20s %s\n' "$compressor" "$(bits "$($compressor -c "$out/heldout.txt" | wc -c)" "$held_out")"
done
score=$($megabyte eval --model "$out/model" --data "$out/heldout.txt" --method sliding --json)
printf '  %-20s %.3f\n' megabyte "$(sed -nE 's/.*"bpb": *([0-9.]+).*/\1/p' <<<"$score" | head -1)"

title "What it writes"
written $megabyte generate --model "$out/model" --prompt "$prompt" --echo --bytes 600 --temperature 0.8 --seed "$seed"

cat <<END

To go on:
  make quickstart DATA=YOUR-FOLDER                          # all this with your own text
  $megabyte generate --prompt "Dear Sir," --bytes 500   # the model in the box
  $megabyte compress YOUR-FILE                          # and decompress, verify, list
  $megabyte train --out $out/model --resume --minutes 10   # eight minutes more
  $megabyte info share/megabyte/model                   # what it is; the README there: what it was made of
END
