set -u
(echo "$nothing"); echo "status $?"
v=$(echo "$nothing"); echo "status $?"
