set -e
false | true
echo "pipeline went on"
set -o pipefail
false | true
echo "not reached"
