A=1; export B=2; C=3 sh -c 'echo "[$A] [$B] [$C]"'; echo "[${C-}]"
env -i sh -c 'echo "${HOME-none}"'
export -n B; sh -c 'echo "[$B]"'
f() { echo exported; }; export -f f; bash -c f
