echo "$(echo "nested $(echo "deep")")" `echo back\`echo tick\``
v=$(printf 'a\n\n\n'); echo "[$v]"
v=$(false); echo $?; echo "$(exit 3)" $?
local_status() { local v=$(false); echo $?; local w; w=$(false); echo $?; }; local_status
