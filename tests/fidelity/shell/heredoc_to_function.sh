f() { while read -r l; do echo "f: $l"; done; }
f <<END
1
2
END
f < <(echo 3)
