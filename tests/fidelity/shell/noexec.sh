echo before
set -n
echo after
