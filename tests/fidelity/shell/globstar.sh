shopt -s globstar
mkdir -p t/u/v && touch t/1 t/u/2 t/u/v/3
printf '%s\n' t/**; printf '%s\n' t/**/*[0-9]
rm -r t
