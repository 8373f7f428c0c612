#!/bin/sh
# Answers a question with one model call and says how good the answer was. Needs curl and jq, and no agentlightning.
set -eu

task=$(cat)
request=$(printf '%s' "$task" | jq --arg model "$OPENAI_MODEL" --argjson sampling "$AGL_SAMPLING_PARAMETERS" \
  '$sampling + {$model, messages: [{role: "user", content: .question}]}')
reply=$(printf '%s' "$request" | curl --silent --show-error --fail-with-body --data-binary @- \
  --header "Authorization: Bearer $OPENAI_API_KEY" --header "Content-Type: application/json" \
  "$OPENAI_BASE_URL/chat/completions") || { echo "$reply" >&2; exit 1; }

answer=$(printf '%s' "$reply" | jq --raw-output '.choices[0].message.content')
echo "The model says: $answer" >&2
printf '%s' "$task" | jq --compact-output --arg answer "$answer" '{reward: (if $answer == .answer then 1 else 0 end)}'
