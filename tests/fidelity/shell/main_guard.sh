# A script that does its work only when it is executed.
main() { echo "main ran with $# arguments"; }
if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then main "$@"; else echo "sourced"; fi
