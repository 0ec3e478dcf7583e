set -euo pipefail
main() { echo ran; }
[[ "${BASH_SOURCE[0]}" != "${0}" ]] || main "$@"
