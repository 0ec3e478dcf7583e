for v in a b c d; do
  case $v in a) echo 1;& b) echo 2;; c) echo 3;;& [cd]) echo 4;; *) echo 5;; esac
done
