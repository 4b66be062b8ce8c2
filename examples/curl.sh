#!/bin/sh
# Classifies an image: examples/curl.sh [IMAGE] [URL]
curl --silent --show-error --fail-with-body \
    --form "file=@${1:-examples/coffee.jpg}" \
    "${2:-http://127.0.0.1:8000}/predict?top_k=3"
