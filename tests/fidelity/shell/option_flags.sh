echo $-
set -o | head -n 40
