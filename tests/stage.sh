# SPDX-License-Identifier: Apache-2.0
# Sourced: `stage NAME COMMAND...` runs a command quietly, shows how far it is, and keeps what it
# printed in build/logs/ (not for scripts under set -e). `stages_summary` prints what each took and returns whether all passed.

mkdir -p build/logs
stage_names=() stage_results=() stage_seconds=()
export NINJA_STATUS='[%f/%t %e] '
jobs=$(nproc 2> /dev/null || echo 2)

# Passes nothing on; reports ninja's and ctest's progress with an estimate of the time left, on one
# line of a terminal or every 30 seconds of a log.
show_progress() {
  local name=$1 line part total elapsed begin=$SECONDS shown=-30
  while IFS= read -r line; do
    if [[ $line =~ ^\[([0-9]+)/([0-9]+)\  ]] || [[ $line =~ ^\ *([0-9]+)/([0-9]+)\ Test ]]; then
      part=${BASH_REMATCH[1]} total=${BASH_REMATCH[2]} elapsed=$((SECONDS - begin))
      ((part * 20 >= total && elapsed > 5)) || continue  # before that an estimate is a guess
      if [ -t 2 ]; then
        printf '\r  %s: %d of %d, about %d s left \e[K' "$name" "$part" "$total" \
          $((elapsed * (total - part) / part)) >&2
      elif ((SECONDS - begin - shown >= 30)); then
        shown=$elapsed
        printf '  %s: %d of %d, about %d s left\n' "$name" "$part" "$total" \
          $((elapsed * (total - part) / part)) >&2
      fi
    fi
  done
  if [ -t 2 ]; then printf '\r\e[K' >&2; fi
}

stage() {
  local name=$1 begin=$SECONDS result=0
  shift
  local log="build/logs/${name//[ \/]/-}.log"
  "$@" 2>&1 | tee "$log" | show_progress "$name"
  result=${PIPESTATUS[0]}
  stage_names+=("$name") stage_seconds+=($((SECONDS - begin)))
  if [ "$result" = 0 ]; then
    stage_results+=(passed)
    printf '%-34s passed %5d s\n' "$name" $((SECONDS - begin))
  else
    stage_results+=(FAILED)
    printf '%-34s FAILED %5d s   (%s)\n' "$name" $((SECONDS - begin)) "$log"
    grep -nE '(error|FAILED|\*\*\*Failed|Error):?' "$log" | head -20 || true
    tail -25 "$log"
  fi
  return "$result"
}

stages_summary() {
  local i failed=0
  for i in "${!stage_names[@]}"; do
    [ "${stage_results[i]}" = passed ] || failed=$((failed + 1))
  done
  printf '%d stages, %d failed, %d s\n' "${#stage_names[@]}" "$failed" "$SECONDS"
  [ "$failed" = 0 ]
}
