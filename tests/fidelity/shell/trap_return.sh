f() { trap 'echo "returning from ${FUNCNAME[0]}"' RETURN; echo body; }
f
g() { echo g; }
g
