#!/usr/bin/env bash
# Trains a classifier of Fashion-MNIST from nothing but python3, pip and bash; options go to the training script.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
make_environment
find_fashion_mnist
exec .venv/bin/python scripts/train_fashion_mnist.py "$@"
