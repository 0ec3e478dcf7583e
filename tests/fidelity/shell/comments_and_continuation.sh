echo a \
  b # comment
: <<'COMMENT'
a block comment
COMMENT
echo c; # end
if true; then # here
  echo d
fi
