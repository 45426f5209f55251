#!/usr/bin/env bash
# Ask one question with the stock `nats` command line and print the answer while it is decoded. Needs nats and jq.
#   NATS_URL=nats://127.0.0.1:4222 ./ask.sh "What is the capital of France?"
# The broker of 'kiki up' knows you by a file of the data directory.
set -euo pipefail
data=${KIKI_DATA_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/micro-kiki}
[ "$(uname)" != Darwin ] || data=${KIKI_DATA_DIR:-$HOME/Library/Application Support/micro-kiki}
nkey=${NATS_NKEY:-$data/nats/users/owner.nk}
[ ! -r "$nkey" ] || export NATS_NKEY=$nkey
question=${1:-What is the capital of France?}
turn=$(tr -d - < /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen | tr -d - | tr '[:upper:]' '[:lower:]')
now=$(date +%s)

body=$(jq -nc --arg turn "$turn" --arg question "$question" --argjson now "$now" '{
  envelope: {event_id: "\($turn):query.received", turn_id: $turn, session_id: $turn, tenant: "default",
             created_at: $now, deadline: ($now + 120), schema_version: 5},
  query: {model: "micro-kiki-fast", messages: [{role: "user", content: $question}], sampling: {seed: $now}, stream: true}}')

# Listen first: to the live text, and for the end. A slow machine may need a longer $WAIT until both are heard of.
nats sub --raw "kiki.infer.token.$turn" 2>/dev/null > >(jq --unbuffered -j 'select(.kind == "content").text
  | explode | map(select(. == 9 or . == 10 or . > 31 and (. < 127 or . > 159))) | implode') &  # nothing steers the terminal
tokens=$!
end=$(mktemp)
nats sub --raw --count=1 "kiki.answer.ready.$turn" 2>/dev/null > "$end" &
answered=$!
trap 'kill $tokens $answered 2>/dev/null || true; rm -f "$end"' EXIT  # jq ends with what it reads from
sleep "${WAIT:-0.5}"

nats req "kiki.query.received.$turn" "$body" --header "Nats-Msg-Id:$turn:query.received" > /dev/null 2>&1
wait $answered
sleep 0.2
echo
jq -r '"\n[\(.usage.completion_tokens) tokens, model \(.inference.model)]"' < "$end"
