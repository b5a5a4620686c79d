#!/usr/bin/env bash
# Everything a GPU must show, in two runs of about five minutes each on one H100 or H200.
#
#   benchmarks/gpu/run.sh [1|2|all] [--sizes tiny] [--out DIR] [--store DIR]
#
# Run 1: the tests marked `gpu`, then training speed at 50M, 300M and 1B beside Trainer's.
# Run 2: decoding speed of 1B models by depth, Taylor scores of a 7B teacher, and the depth study.
# Every part has a time limit and writes OUT/PART.json as soon as it has it; a part that fails stops
# no other. `--sizes tiny` goes the whole way on any machine. DIR of --store holds the packed text
# of the depth study (train/, valid/; see depth.py); without one it trains on made-up tokens.
set -u
cd "$(dirname "$0")/../.."
which=all sizes=full out=runs/gpu store=""
while [ $# -gt 0 ]; do
  case $1 in
    1 | 2 | all) which=$1 ;;
    --sizes) sizes=$2 && shift ;;
    --out) out=$2 && shift ;;
    --store) store=$2 && shift ;;
    *) echo "run.sh: unknown word $1 (see its head)" >&2 && exit 2 ;;
  esac
  shift
done
mkdir -p "$out"
python=${PYTHON:-python3}
export PYTHONPATH=$PWD/src PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
failed=0 table=""

part() { # NAME SECONDS COMMAND...: its last line of output is its JSON
  local name=$1 limit=$2 start=$SECONDS verdict=ok
  shift 2
  timeout --signal=INT --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 || verdict="failed ($?)"
  tail -n 1 "$out/$name.log" | grep '^{' >"$out/$name.json" || rm -f "$out/$name.json"
  [ "$verdict" = ok ] || { failed=1 && tail -n 15 "$out/$name.log"; }
  table+=$(printf '%-14s %-12s %4d s' "$name" "$verdict" $((SECONDS - start)))$'\n'
  echo "$name: $verdict"
}

if [ "$sizes" = tiny ]; then
  export TINYLM_REHEARSE=1
  train=(tiny) plan=(--budget 2e6 --vocab-size 512 --depths 4,6 --new-tokens 6 --device cpu)
else
  train=(50M 300M 1B)
  plan=(--budget 1e9 --vocab-size 48000 --depths 15,20,25,30 --new-tokens 510 --device cuda)
fi
if [ "$which" != 2 ]; then
  part tests 120 "$python" -m pytest tests/gpu -q -p no:cacheprovider --show-capture=no
  for size in "${train[@]}"; do
    part "train-$size" 150 "$python" benchmarks/train_gpu.py --sizes "$size" --steps 14
  done
fi
if [ "$which" != 1 ]; then
  part speed 170 "$python" benchmarks/gpu/speed.py "${plan[@]}"
  part taylor 100 "$python" benchmarks/gpu/taylor.py --sizes "$sizes"
  part depth 330 "$python" benchmarks/gpu/depth.py --sizes "$sizes" --out "$out" --store "$store"
fi
"$python" benchmarks/gpu/merge.py "$out"
echo "$table"
exit $failed
