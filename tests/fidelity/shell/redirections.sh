{ echo out; echo err >&2; } > both 2>&1; cat both
echo more >> both; wc -l < both
{ echo a; echo b >&2; } &> both; sort both
echo x >| both; cat both; set -o noclobber; echo y > both; echo $?
rm both
exec 3> f; echo three >&3; exec 3>&-; cat f; exec 4< f; read -r l <&4; echo "$l"; exec 4<&-; rm f
echo gone >&9; echo $?
