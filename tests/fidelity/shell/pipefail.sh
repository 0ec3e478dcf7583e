set -o pipefail
true | false | true; echo "$?" "${PIPESTATUS[@]}"
(exit 3) | (exit 4); echo "${PIPESTATUS[@]}"
yes | head -n 1; echo "${PIPESTATUS[@]}"
