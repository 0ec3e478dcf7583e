set -o posix; echo $POSIXLY_CORRECT; shopt -o posix; set +o posix
