set -e
false || echo "or"
if false; then :; fi
! true
(false) || echo "subshell"
f() { false; echo "in f"; }
f || echo "not printed"
echo before
false
echo "not reached"
