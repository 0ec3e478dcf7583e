# fidelity: skip=context -- traces in a context start with one more +
set -x
a=1
f() { echo "$1"; }
f "x y"
for i in 1 2; do :; done
[[ $a == 1 ]] && echo yes
v=$(echo sub)
set +x
echo done
