pwd | sed "s:$HOME:HOME:"; mkdir -p a/b; cd a/b; echo "${PWD##*/}" "$(($(cd - | wc -l)))"
pushd .. > /dev/null; dirs | wc -w; popd > /dev/null; cd ../..; rm -r a; cd; echo ~ | sed "s:$HOME:HOME:"
