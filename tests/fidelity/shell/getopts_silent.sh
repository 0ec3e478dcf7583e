# fidelity: args=-a -b value -c rest more
while getopts ":ab:c" o; do
  case $o in
  a) echo a;;
  b) echo "b=$OPTARG";;
  c) echo c;;
  :) echo "missing $OPTARG";;
  \?) echo "unknown $OPTARG";;
  esac
done
shift $((OPTIND - 1)); echo "rest: $*"
