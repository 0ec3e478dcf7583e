# Bash reads this file at its start, as BASH_ENV, before it opens the script on its command line. So it waits here until
# the agent has written that script, and then runs it as any bash runs a script. Descriptor 3 is a file with variables, 4
# carries messages and 5 control messages; interpreter.rs describes them. What a script could see of this is undone.
while
  read -r -u 4 __m __s __n HOSTNAME || exit 0;
  [[ $__m == p ]];
do
  mapfile -t -d "" -u 3 __c;
  (
    exec 3<&- 4<&- 5>&-;
    for __m in "${__c[@]:0:${#__c[@]}-1}"; do export "$__m"; done;
    eval "unset BASH_ENV __c __m __n __s; ${__c[-1]}"
  );
  printf '%d\n' "$?" >&5;
done;
if [[ $__n != 0 ]]; then
  mapfile -t -d "" -u 3 __c
  for __m in "${__c[@]}"; do export "$__m"; done
fi
[[ $__s == 0 ]] || RANDOM=$__s
SECONDS=0
# Closing the descriptors reports that the script starts.
exec 3<&- 4<&- 5>&-
unset BASH_ENV __c __m __n __s
: bash
