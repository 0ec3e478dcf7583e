# Runs scripts from the file on descriptor 3 when a message arrives on descriptor 4; interpreter.rs describes both.
# Bash gets all of this as one line, so that the lines of the scripts keep their numbers. Therefore each line here
# ends where a `;` is allowed, and comments are on separate lines.
#
# Variables of an exec in a context: __b contains the previous values of its variables and directory, __s its exit
# code, __r is 1 while it runs. __e is set if an interrupt arrived after its message and before it ran. __h is the
# directory that relative directories refer to. __g is the exec's DEBUG trap and __x `set -x` if it traces: both are off
# while this runs, and what they show of the last commands before that goes to /dev/null.
# After an interrupt, and after a `break` outside the exec's own loops, execution continues behind the loop, and from
# there returns to it.
while
  if [[ ${__r-} == 1 ]]; then
    { set +x; trap -- - DEBUG; } >/dev/null 2>&1;
    printf '%s\n' "break and continue are only meaningful in a loop; the rest was skipped" >&2;
    __s=1 __r=0;
  fi;
  if [[ ${__s-} ]]; then
    for __w in "${__b[@]}"; do
      case $__w in
      =*) builtin cd -- "${__w:1}" 2>/dev/null;;
      *=*) export "$__w";;
      *) unset "$__w";;
      esac;
    done;
    __w= __e=;
    printf '%d\n' "$__s" >&5;
  fi;
  IFS= read -r -u 4 __w;
do
  mapfile -t -d "" -u 3 __c;
  __n=${__w##* } __w=${__w% *};
  if [[ $__n != 0 ]]; then
    set -- "${__c[@]: -1-__n:__n}";
    __c=("${__c[@]:0:${#__c[@]}-1-__n}" "${__c[-1]}");
  fi;
  [[ ${__w#* } == 0 ]] || RANDOM=${__w#* };
# An interrupt leaves the running command. Before each further command, __t leaves the construct around it: a function
# by `return`, all loops including this one by `break`. Bash executes nothing in the constructs that were left. A
# command that reads again after a handler, such as `read`, finds the end of input. With `extdebug`, a failing __t
# skips the command that would follow.
    [[ ${__r-} ]] || trap '
      if [[ $__r == 1 ]]; then
        __i=$-;
        ! shopt -q extdebug || __i+=X;
        set +e;
        shopt -s extdebug;
        if [[ ${FUNCNAME-} ]]; then
          trap "$__t" DEBUG;
          return 130;
        else
          { exec {__d}<&0 </dev/null; } 2>/dev/null;
          trap "$__t" DEBUG;
          break 999;
        fi;
      elif [[ $__w ]] || read -t 0 -u 4; then
        __e=1;
      fi' INT;
    __b=() __h=${__h-$PWD} __r=1 __s= __i= __d= __t='
      case $BASH_COMMAND in
      "trap -- - DEBUG"|"return 130"|"break 999") ;;
      *) if [[ ${FUNCNAME-} ]]; then return 130; else break 0 2>/dev/null; fi;;
      esac';
    for __w in "${__c[@]:0:${#__c[@]}-1}"; do
      __n=${__w%%=*};
      case $__w in
      =*)
        __b+=("=$PWD" "OLDPWD${OLDPWD+=$OLDPWD}");
        __w=${__w:1};
        case $__w in /*) ;; *) __w=$__h/$__w;; esac;
        builtin cd -- "$__w" || __s=1;;
      *)
        if [[ -v $__n ]]; then __b+=("$__n=${!__n}"); else __b+=("$__n"); fi;
        export "$__w";;
      esac;
    done;
    [[ ! $__e ]] || __s=130;
    if [[ ! $__s ]]; then
      case ${__g-}${__c[-1]} in
      *DEBUG*)
        eval "eval \"\${__g-}\"; ${__x-}${__c[-1]}" 3<&- 4<&- 5>&-;
        { __s=$? __g=$(trap -p DEBUG) __r=0; trap -- - DEBUG; } >/dev/null 2>&1;;
      *)
        eval "${__x-}${__c[-1]}" 3<&- 4<&- 5>&-;
        { __s=$? __r=0; } 2>/dev/null;;
      esac;
      { __x=; [[ $- != *x* ]] || __x="set -x; "; set +x; } 2>/dev/null;
    fi;
    __r=0;
done;
trap -- - DEBUG;
if [[ ${__i-} ]]; then
  [[ $__i == *X* ]] || shopt -u extdebug;
  for __w in e E T; do
    [[ $__i != *"$__w"* ]] || set "-$__w";
  done;
  if [[ $__d ]]; then
    [[ ! /proc/self/fd/0 -ef /dev/null ]] || exec 0<&"$__d";
    exec {__d}<&-;
  fi;
  __r= __s=130;
  eval "$__y";
elif [[ ${__r-} == 1 ]]; then
  eval "$__y";
fi
