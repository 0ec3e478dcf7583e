set -e
v=$(false; echo inner)
echo "v=$v"
shopt -s inherit_errexit
v=$(false; echo inner)
echo "not reached"
