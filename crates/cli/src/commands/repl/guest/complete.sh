# Writes the completions of a word to standard output, one per line. $1 is the kind of the word. In a subshell, so that the
# context's variables stay as they are.
__complete_word() {
  case $1 in
  variable) compgen -P '$' -A variable -- "${2#?}" ;;
  command) compgen -A function -A alias -A builtin -A keyword -A command -- "$2"; compgen -A directory -S / -- "$2" ;;
  *) compgen -A directory -S / -- "$2"; compgen -A file -- "$2" | while IFS= read -r f; do [[ -d $f ]] || printf '%s\n' "$f"; done ;;
  esac | LC_ALL=C sort -u | head -n 500
}
