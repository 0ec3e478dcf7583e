# fidelity: skip=context -- there is no file main.sh in a context
echo "$(basename "$0")" "${BASH_SOURCE[0]##*/}" "${#BASH_SOURCE[@]}"
[[ -f $0 ]] && echo "is a file"
head -n 1 "$0"
cd / && [[ -f ${BASH_SOURCE[0]} ]] || echo "relative"
