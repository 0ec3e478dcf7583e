declare -u up=abc; declare -l low=ABC; declare -x ex=1; declare -a ar; declare -i in=2+2
echo $up $low $in; declare -p up low ex ar in; typeset -g gl=1; echo $gl; local x 2>&1 | sed 's/.*local/local/'
