DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[[ $DIR == "$PWD" ]] && echo same
ls "$DIR" | grep -c main
