f() { local x=inner; echo "$x $1 $# $FUNCNAME"; return 4; }
x=outer; f a b; echo "$? $x"
function g { echo "g"; }; g
h() ( x=subshell; echo "$x" ); h; echo "$x"
declare -f g; unset -f g; g; echo $?
fact() { (($1 <= 1)) && echo 1 || echo $(($1 * $(fact $(($1 - 1))))); }; fact 10
