#!/usr/bin/env bash
# The main job in one go, about seven minutes on two CPU cores:
#
#     bash scripts/demo.sh [FOLDER]
#
# trains five tiny models that differ in their positional encoding alone, measures their perplexity on documents held out
# of training at up to 16 times the train length, draws the figure and lets one of them write. The models go to runs/demo
# (finished ones are kept, an interrupted one is resumed), the table and the figure to FOLDER (default: runs/demo).
# `make demo` calls this; the figures in the README were made with results/demo as FOLDER.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-runs/demo}

for name in rope alibi bipe_rope bipe_alibi bipe_hybrid; do
  if [ -f "runs/demo/tiny_$name/training.json" ]; then
    echo "runs/demo/tiny_$name is trained already"
  else
    bipe-hf pretrain "configs/tiny_$name.yaml" --output_dir "runs/demo/tiny_$name"
  fi
done

bipe-hf evaluate runs/demo/tiny_{rope,alibi,bipe_rope,bipe_alibi,bipe_hybrid} \
  --lengths 128,256,512,1024,2048 --max-tokens 65536 --output "$folder/evaluation.json" --overwrite
bipe-hf plot "$folder/evaluation.json" --output "$folder/perplexity.png" --overwrite

echo
echo "The hybrid goes on from a prompt, with the ten lines of the README:"
python scripts/readme_snippet.py | tee "$folder/generated.txt"

echo
echo "Table: $folder/evaluation.md   Figure: $folder/perplexity.png   Models: runs/demo/tiny_*"
