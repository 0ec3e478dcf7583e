source /dev/stdin <<< 'echo from stdin; w=1'; echo $w
. <(echo 'echo from substitution')
