set -u
echo "${x-ok}"
echo "$x"
echo "not reached"
