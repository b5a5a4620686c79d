#!/usr/bin/env bash
# Everything a GPU must show, in two runs of at most five minutes each on one H100 or H200.
#
#   benchmarks/gpu/run.sh [1|2|all] [--sizes tiny] [--out DIR] [--store DIR] [--within SECONDS]
#                         [--skip PART]
#
# Run 1: the tests marked `gpu`, then training speed at 50M, 300M and 1B beside Trainer's.
# Run 2: Taylor scores of a 7B teacher and its whole inheritance to 1B, decoding speed of 1B models by
# depth, and the depth study.
# Every part has a time limit and writes OUT/PART.json as soon as it has it; a part that fails stops
# no other, and a run ends within 290 seconds (`--within`, 580 for all): what is left then is told.
# `--sizes tiny` goes the whole way on any machine. DIR of --store holds the packed text of the
# depth study (see depth.py); without one it trains on made-up tokens.
set -u
cd "$(dirname "$0")/../.."
which=all sizes=full out=runs/gpu store="" within="" skip=""
while [ $# -gt 0 ]; do
  case $1 in
    1 | 2 | all) which=$1 ;;
    --sizes) sizes=$2 && shift ;;
    --out) out=$2 && shift ;;
    --store) store=$2 && shift ;;
    --within) within=$2 && shift ;;
    --skip) skip=$2 && shift ;;
    *) echo "run.sh: unknown word $1 (see its head)" >&2 && exit 2 ;;
  esac
  shift
done
[ -n "$within" ] || { [ "$which" = all ] && within=580 || within=290; }
mkdir -p "$out"
python=${PYTHON:-python3}
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
failed=0 table=""

part() { # NAME SECONDS COMMAND...: the last line of its output that begins with { is its JSON
  local name=$1 limit=$2 start=$SECONDS verdict=ok
  shift 2
  [ "$name" != "$skip" ] || return
  [ "$limit" -le $((within - SECONDS)) ] || limit=$((within - SECONDS))
  if [ "$limit" -lt 5 ]; then
    failed=1 && table+=$(printf '%-14s no time left' "$name")$'\n'
    return
  fi
  timeout --signal=INT --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 || verdict="failed ($?)"
  grep '^{' "$out/$name.log" | tail -n 1 >"$out/$name.json"
  [ -s "$out/$name.json" ] || rm "$out/$name.json"
  [ "$verdict" = ok ] || { failed=1 && tail -n 15 "$out/$name.log"; }
  table+=$(printf '%-14s %-12s %4d s' "$name" "$verdict" $((SECONDS - start)))$'\n'
  echo "$name: $verdict"
}

if [ "$sizes" = tiny ]; then
  export TINYLM_REHEARSE=1 TORCHDYNAMO_DISABLE=1  # minutes of C++ on a CPU
  train=(tiny) cut=(--model tiny --length 64)
  plan=(--budget 2e6 --vocab-size 512 --depths 4,6 --new-tokens 6 --device cpu)
else
  train=(1B 300M 50M) cut=(--device cuda --stream auto)
  plan=(--budget 1e9 --vocab-size 48000 --depths 15,20,25,30 --new-tokens 510 --device cuda)
fi
if [ "$which" != 2 ]; then
  for size in "${train[@]}"; do
    part "train-$size" 120 "$python" benchmarks/train_gpu.py --sizes "$size" --steps 14
  done
  part tests 100 "$python" -m pytest tests/gpu -q -p no:cacheprovider --show-capture=no
fi
if [ "$which" != 1 ]; then
  part taylor 60 "$python" benchmarks/gpu/taylor.py --sizes "$sizes"
  part inherit 120 "$python" benchmarks/inherit_7b.py --work "$out/teacher" "${cut[@]}"
  rm -rf "$out/teacher"
  part speed 140 "$python" benchmarks/gpu/speed.py "${plan[@]}"
  part depth 200 "$python" benchmarks/gpu/depth.py --sizes "$sizes" --out "$out" --store "$store"
fi
"$python" benchmarks/gpu/merge.py "$out"
echo "$table"
exit $failed
