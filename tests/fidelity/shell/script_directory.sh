# fidelity: skip=context -- there is no file main.sh in a context
DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[[ $DIR == "$PWD" ]] && echo same
ls "$DIR" | grep -c main
