readonly r=1; unset r; echo $?
declare -r a=(1); a[0]=2; echo $?
