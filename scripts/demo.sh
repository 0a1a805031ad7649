#!/usr/bin/env bash
# The main job in one go, about five minutes on two CPU cores:
#
#     bash scripts/demo.sh
#
# trains four tiny models that differ in their positional encoding alone, measures their perplexity on documents held out
# of training at up to 16 times the train length, draws the figure and lets one of them write. `make demo` calls this.
set -euo pipefail
cd "$(dirname "$0")/.."
export TOKENIZERS_PARALLELISM=true

for name in rope alibi bipe_rope bipe_alibi; do
  bipe-hf pretrain "configs/tiny_$name.yaml" --overwrite
done

bipe-hf evaluate runs/tiny_rope runs/tiny_alibi runs/tiny_bipe_rope runs/tiny_bipe_alibi \
  --lengths 128,256,512,1024,2048 --max-tokens 65536 --output runs/demo/evaluation.json --overwrite
bipe-hf plot runs/demo/evaluation.json --output runs/demo/perplexity.png --overwrite

echo
echo "The BiPE-RoPE model, loaded with AutoModelForCausalLM, goes on from a prompt:"
bipe-hf generate runs/tiny_bipe_rope "The return value is" --max-new-tokens 60 --temperature 0.7 --seed 1

echo
echo "Table:  runs/demo/evaluation.md   Figure: runs/demo/perplexity.png   Models: runs/tiny_*"
