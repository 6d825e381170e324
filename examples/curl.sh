#!/bin/sh
# Ask Baton with curl.
# usage: sh examples/curl.sh [http://127.0.0.1:8080]
set -eu
url=${1:-http://127.0.0.1:8080}

echo "# is it ready, and with which model?"
curl -sS --fail-with-body "$url/health"
echo
curl -sS --fail-with-body "$url/v1/models"
echo

echo "# a completion, whole"
curl -sS --fail-with-body "$url/v1/completions" \
  -H 'Content-Type: application/json' \
  -d '{"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}'
echo

echo "# a chat, streamed: one server-sent event per piece, then [DONE]"
curl -sS --fail-with-body -N "$url/v1/chat/completions" \
  -H 'Content-Type: application/json' \
  -d '{"messages": [{"role": "user", "content": "Name three colours."}],
       "max_tokens": 32, "temperature": 0, "stream": true}'
