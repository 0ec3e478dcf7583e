shopt -s extglob
for w in a aa b ab abc; do
  case $w in
  +(a)) echo "$w: only a";;
  @(b|c)) echo "$w: b or c";;
  !(*c)) echo "$w: not ending in c";;
  *) echo "$w: other";;
  esac
done
v=xxabcxx; echo "${v##+(x)}" "${v%%+(x)}" "${v//+(x)/-}"
