# fidelity: args=first
case ${1-} in
first) bash "$0" second;;
second) echo "called with $1 as ${0##*/}";;
esac
