a=(zero one "two words" [5]=five)
echo "${#a[@]}" "${!a[@]}" "${a[-1]}" "${a[2]}"
a+=(six); unset 'a[1]'; echo "${!a[@]}"
printf '[%s]' "${a[@]:1:2}"; echo
printf '[%s]' "${a[@]/two/2}"; echo
b=("${a[@]}"); echo "${#b[@]}" "${b[*]}"
declare -p a
