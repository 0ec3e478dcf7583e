s='äöü€😀'; echo "${#s}" "${s:1:2}" "${s^^}"; printf '%s\n' "${s: -1}"; [[ ä == [[:alpha:]] ]] && echo alpha; printf '%d\n' "'ä"
