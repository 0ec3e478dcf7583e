# fidelity: args=first
# fidelity: skip=context -- there is no file main.sh in a context
case ${1-} in
first) bash "$0" second;;
second) echo "called with $1 as ${0##*/}";;
esac
